//! Many requests from many threads against one engine, with everything that can happen to it; each answer is held against what its
//! request gives alone. A few run with the tests, many with `cargo xtask soak`.

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use fixtures::Weights;
use llama_safe::{
    Call, Context, ContextParams, EndReason, Engine, Fault, FlashAttention, Generation, KvLayout, KvType, Model,
    Request, Sampler, Shutdown, Stats, StopConditions, Token,
};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::memory::{peak, resident};
use crate::models::{params, tiny};
use crate::oracle::prompt;

/// Threads that ask.
const THREADS: u32 = 8;

/// Texts that prompts begin with, and lengths to which they are cut.
const TEXTS: u32 = 12;
const LENGTHS: [u32; 6] = [1, 7, 20, 33, 64, 110];

/// Samplers: the greedy one, and seeds.
const SAMPLERS: u32 = 3;

/// The most tokens of an answer.
const TOKENS: u32 = 48;

/// Growth that is no leak: pages that the allocator keeps, and that the kernel counts late.
const ALLOWED: i64 = 8 << 20;

/// How far logits are off in a batch where all is in 32 bits, with room; in units of their root mean square.
const NOISE: f32 = 2e-4;

/// What a soak found. Its [`Display`](fmt::Display) is one JSON object.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Requests that were taken.
    pub requests: u64,
    /// Those whose text is whole.
    pub completed: u64,
    /// Those that were cancelled, or ran out of time.
    pub cancelled: u64,
    /// Those that ended with an error.
    pub failed: u64,
    /// Those that never ended, or without saying why.
    pub lost: u64,
    /// Those that the engine counts more than once, and answers with more than they asked for.
    pub duplicated: u64,
    /// Those with other tokens than alone.
    pub wrong: u64,
    /// Tokens held against those of requests alone.
    pub compared_tokens: u64,
    /// Steps that could not be computed as planned.
    pub fallbacks: u64,
    /// Times that a request gave up its sequence.
    pub preemptions: u64,
    /// Prompts that found a beginning in memory.
    pub prefix_hits: u64,
    /// Beginnings that came back from outside the context.
    pub restored: u64,
    /// Growth of resident memory from a tenth of the requests to the last, bytes.
    pub growth_bytes: i64,
    /// The most resident memory, bytes.
    pub peak_memory_bytes: i64,
}

impl Report {
    /// Whether all is as it should be.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let ended = self.completed + self.cancelled + self.failed;
        (self.lost, self.duplicated, self.wrong) == (0, 0, 0)
            && ended == self.requests
            && self.growth_bytes <= ALLOWED
            && self.compared_tokens > self.requests
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{\"requests\":{},\"completed\":{}", self.requests, self.completed)?;
        write!(f, ",\"cancelled\":{},\"failed\":{}", self.cancelled, self.failed)?;
        write!(f, ",\"lost\":{},\"duplicated\":{},\"wrong\":{}", self.lost, self.duplicated, self.wrong)?;
        write!(f, ",\"compared_tokens\":{},\"fallbacks\":{}", self.compared_tokens, self.fallbacks)?;
        write!(f, ",\"preemptions\":{},\"prefix_hits\":{}", self.preemptions, self.prefix_hits)?;
        write!(f, ",\"restored\":{},\"growth_bytes\":{}", self.restored, self.growth_bytes)?;
        write!(f, ",\"peak_memory_bytes\":{}}}", self.peak_memory_bytes)
    }
}

/// Asks for `requests` answers, and tells what came of them; `hear` is told how many have ended, now and then.
///
/// # Panics
///
/// If a call fails that has no reason to.
pub fn soak(requests: u64, seed: u64, hear: impl Fn(u64) + Sync) -> Report {
    let model = tiny(Weights::F32);
    let answers = Answers { model: &model, known: Mutex::new(HashMap::new()) };
    let mut report = Report::default();
    // Cells of their own; then one pool that is too small for all.
    for (part, layout) in [KvLayout::Split, KvLayout::Unified].into_iter().enumerate() {
        let from = part as u64 * requests.div_ceil(2);
        let count = if part == 0 { requests.div_ceil(2) } else { requests / 2 };
        run(&answers, layout, count, seed ^ from.rotate_left(32), &mut report, |done| hear(from + done));
    }
    report.peak_memory_bytes = peak().unwrap_or(0);
    report
}

fn exact() -> ContextParams {
    params().batch_threads(1).kv_type(KvType::F32).flash_attention(FlashAttention::Off)
}

fn run(answers: &Answers<'_>, layout: KvLayout, count: u64, seed: u64, report: &mut Report, hear: impl Fn(u64) + Sync) {
    let mut dice = ChaCha8Rng::seed_from_u64(seed);
    let faults = move |call: Call| {
        let often = if call == Call::Decode { 40 } else { 200 };
        (dice.next_u32() % often == 0).then(|| match dice.next_u32() % 4 {
            0 => Fault::Failed,
            1 => Fault::NoRoom,
            _ if call == Call::Decode => Fault::Aborted(dice.next_u32() % 40),
            _ => Fault::Failed,
        })
    };
    let cells = if layout == KvLayout::Unified { 512 } else { 6 * 256 };
    let builder = Engine::builder(answers.model).context(exact()).measure(false).layout(layout);
    let builder = builder.sequences(6).context_tokens(cells).spill_bytes(1 << 20).prompt_chunk(40).queue(24);
    let engine = builder.unread_pieces(6).speculation(true).faults(faults).start().expect("an engine");
    let total = Mutex::new(Report::default());
    let (begun, ended) = (AtomicU64::new(0), AtomicU64::new(0));
    let early = Mutex::new(None);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (engine, total, begun, ended, early, hear) = (&engine, &total, &begun, &ended, &early, &hear);
            scope.spawn(move || {
                let mut dice = ChaCha8Rng::seed_from_u64(seed.wrapping_add(1 + u64::from(thread)));
                while begun.fetch_add(1, Ordering::Relaxed) < count {
                    let found = ask(answers, engine, &mut dice);
                    let done = ended.fetch_add(1, Ordering::Relaxed) + 1;
                    let mut total = total.lock().expect("nobody panics");
                    total.add(&found);
                    if done == (count / 10).max(1) {
                        *early.lock().expect("nobody panics") = resident();
                    }
                    if done % 500 == 0 || done == count {
                        hear(done);
                    }
                }
            });
        }
    });
    let late = resident();
    let mut total = total.into_inner().expect("nobody panics");
    let stats = engine.shutdown(Shutdown::Finish);
    total.settle(&stats);
    if let (Some(early), Some(late)) = (early.into_inner().expect("nobody panics"), late) {
        // What is kept outside of the context is no leak, and has its limit.
        total.growth_bytes = late - early;
    }
    let growth = report.growth_bytes.max(total.growth_bytes);
    report.add(&total);
    report.growth_bytes = growth;
}

impl Report {
    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.completed += other.completed;
        self.cancelled += other.cancelled;
        self.failed += other.failed;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.wrong += other.wrong;
        self.compared_tokens += other.compared_tokens;
        self.fallbacks += other.fallbacks;
        self.preemptions += other.preemptions;
        self.prefix_hits += other.prefix_hits;
        self.restored += other.restored;
    }

    /// Takes what the engine has counted into account.
    fn settle(&mut self, stats: &Stats) {
        let ended = stats.completed + stats.cancelled + stats.failed;
        self.lost += stats.submitted.saturating_sub(ended) + self.requests.saturating_sub(stats.submitted);
        self.duplicated += ended.saturating_sub(stats.submitted) + stats.submitted.saturating_sub(self.requests);
        self.lost += stats.running as u64 + stats.queued as u64;
        self.fallbacks = stats.fallbacks.total();
        self.preemptions = stats.preemptions;
        self.prefix_hits = stats.prefix_hits;
        self.restored = stats.restored;
    }
}

/// One request, read as its reader is minded.
fn ask(answers: &Answers<'_>, engine: &Engine, dice: &mut ChaCha8Rng) -> Report {
    let mut roll = |sides: u32| dice.next_u32() % sides;
    let key = Key { text: roll(TEXTS), length: LENGTHS[roll(6) as usize], sampler: roll(SAMPLERS) };
    let tokens = 1 + roll(TOKENS);
    let mut request = key.request().max_tokens(tokens).priority(roll(3) as i8 - 1);
    if roll(10) == 0 {
        request = request.deadline(Duration::from_millis(roll(40).into()));
    }
    let (cancels, slow) = (roll(5) == 0, roll(6) == 0);
    let (read, how) = (roll(tokens.min(12)), roll(3));
    let mut generation = engine.generate(request).expect("a good request");
    let mut pieces = Vec::new();
    if cancels {
        hear(&mut generation, read, slow, &mut pieces);
        match how {
            0 => {
                let canceller = generation.canceller();
                thread::spawn(move || canceller.cancel()).join().expect("it does not panic");
            }
            1 => generation.cancel(),
            // Nobody knows how it ends.
            _ => {
                drop(generation);
                return Report { requests: 1, cancelled: 1, ..answers.judge(&key, tokens, &pieces, false) };
            }
        }
    }
    if slow {
        hear(&mut generation, u32::MAX, slow, &mut pieces);
    }
    let end = generation.wait();
    let mut report = answers.judge(&key, tokens, &end.tokens, matches!(end.reason, EndReason::Stop(_)));
    // What was read on the way is what is there at the end.
    report.wrong |= u64::from(!end.tokens.starts_with(&pieces));
    match end.reason {
        EndReason::Stop(_) | EndReason::ContextFull => report.completed = 1,
        EndReason::Cancelled | EndReason::Deadline => report.cancelled = 1,
        EndReason::Failed(llama_safe::GenerateError::EngineGone) => report.lost = 1,
        EndReason::Failed(_) => report.failed = 1,
        _ => report.lost = 1,
    }
    Report { requests: 1, ..report }
}

fn hear(generation: &mut Generation, most: u32, slow: bool, pieces: &mut Vec<Token>) {
    for _ in 0..most {
        let Some(Ok(piece)) = generation.next() else { return };
        pieces.extend(piece.token);
        if slow {
            thread::sleep(Duration::from_micros(300));
        }
    }
}

/// Which request; how many tokens it asks for does not matter.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    text: u32,
    length: u32,
    sampler: u32,
}

impl Key {
    fn prompt(self) -> Vec<Token> {
        // Half of them begin alike.
        let begin = if self.text.is_multiple_of(2) { prompt(777, 48) } else { Vec::new() };
        [begin, prompt(self.text, self.length)].concat()
    }

    fn sampler(self) -> Sampler {
        match self.sampler {
            0 => Sampler::greedy(),
            seed => Sampler::chain().temperature(0.9).expect("a good temperature").dist(seed),
        }
    }

    fn request(self) -> Request {
        let stop = StopConditions::new().end_of_text(false);
        Request::tokens(self.prompt()).sampler(self.sampler()).stop(stop)
    }
}

/// What requests get alone, each computed once.
struct Answers<'model> {
    model: &'model Model,
    known: Mutex<HashMap<Key, Vec<Token>>>,
}

impl Answers<'_> {
    /// How these tokens compare with those of the request alone.
    fn judge(&self, key: &Key, asked: u32, tokens: &[Token], whole: bool) -> Report {
        let want = self.of(*key);
        let common = tokens.len().min(want.len());
        let wrong = tokens[..common] != want[..common] || (whole && tokens.len() < asked as usize);
        let duplicated = tokens.len() > asked as usize;
        Report {
            wrong: wrong.into(),
            duplicated: duplicated.into(),
            compared_tokens: common as u64,
            ..Report::default()
        }
    }

    /// Its tokens up to the first that the noise of a batch might change.
    fn of(&self, key: Key) -> Vec<Token> {
        let mut known = self.known.lock().expect("nobody panics");
        known.entry(key).or_insert_with(|| self.alone(key)).clone()
    }

    fn alone(&self, key: Key) -> Vec<Token> {
        let mut context = Context::new(self.model, &exact().context_tokens(256)).expect("a context");
        let sequence = context.new_sequence().expect("a sequence");
        let mut batch = context.new_batch();
        let mut sampler = key.sampler();
        let mut rest = key.prompt();
        let mut said = Vec::new();
        while said.len() < TOKENS as usize {
            let mut slot = None;
            for token in rest.drain(..) {
                slot = Some(batch.push_output(&sequence, token).expect("a token that fits"));
                context.decode(&mut batch).expect("a decode");
            }
            let outputs = context.outputs().expect("a decode was");
            let logits = outputs.get(slot.expect("one token at least")).expect("logits");
            let before = sampler.clone();
            let token = sampler.sample(logits).expect("a token");
            if !is_steady(&before, logits, NOISE, token) {
                break;
            }
            said.push(token);
            rest.push(token);
        }
        said
    }
}

/// Whether a sampler chooses this token also where logits are off by `noise`, in units of their root mean square.
///
/// # Panics
///
/// If it chooses none.
#[must_use]
pub fn is_steady(sampler: &Sampler, logits: &[f32], noise: f32, token: Token) -> bool {
    let size = (logits.iter().map(|logit| logit * logit).sum::<f32>() / logits.len() as f32).sqrt();
    (noise == 0.0)
        || (1..5_u32).all(|salt| {
            let sign = |index: usize| {
                let mixed = (index as u32).wrapping_mul(2_654_435_761).wrapping_add(salt.wrapping_mul(40_503));
                if (mixed ^ (mixed >> 13)) & 16 == 0 { noise * size } else { -noise * size }
            };
            let noisy: Vec<f32> = logits.iter().enumerate().map(|(index, logit)| logit + sign(index)).collect();
            sampler.clone().sample(&noisy).expect("a token") == token
        })
}
