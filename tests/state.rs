//! Saved states: what is refused, what a file does, and that a forged one harms nothing.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use batch_suite::{assert_equal, exact_params, family, is_leak_check, model, params, prompt, still_works, tiny};
use fixtures::{Family, Llama, Lora, Weights};
use llama_safe::{
    Adapter, Context, ContextParams, FlashAttention, KvLayout, KvType, MemoryError, MetadataValue, Model, ModelParams,
    Pooling, SeqId, Sequence, SequenceError, State, StateError, Token,
};

/// A context and a sequence of `length` tokens in it.
fn filled(params: &ContextParams, length: u32) -> (Context, Sequence) {
    let mut context = Context::new(&tiny(Weights::F32), params).unwrap();
    let sequence = decoded(&mut context, &prompt(1, length));
    (context, sequence)
}

/// A sequence that holds these tokens.
fn decoded(context: &mut Context, tokens: &[Token]) -> Sequence {
    let sequence = context.new_sequence().unwrap();
    let mut batch = context.new_batch();
    for tokens in tokens.chunks(batch.capacity() as usize) {
        batch.extend(&sequence, tokens).unwrap();
        context.decode(&mut batch).unwrap();
    }
    sequence
}

/// The logits after one more token.
fn next(context: &mut Context, sequence: &Sequence) -> Vec<f32> {
    let mut batch = context.new_batch();
    let slot = batch.push_output(sequence, Token(17)).unwrap();
    context.decode(&mut batch).unwrap().get(slot).unwrap().to_vec()
}

fn error<T>(result: Result<T, StateError>) -> StateError {
    result.err().expect("a refusal")
}

/// A state of one sequence with other bytes, and the checksum that belongs to them.
fn forged(state: &State, change: impl FnOnce(&mut [u8])) -> State {
    let mut bytes = state.as_bytes().to_vec();
    let end = bytes.len() - 32;
    change(&mut bytes[..end]);
    let checksum = blake3::hash(&bytes[..end]);
    bytes[end..].copy_from_slice(checksum.as_bytes());
    State::from_bytes(bytes).unwrap()
}

/// Where the bytes of llama.cpp begin in a state of one sequence.
const PAYLOAD: usize = 168;

#[test]
fn every_changed_byte_is_noticed() {
    let (mut context, sequence) = filled(&exact_params(), 1);
    let state = context.save(&sequence).unwrap();
    let mut bytes = state.as_bytes().to_vec();
    for index in 0..bytes.len() {
        for mask in [1, 0x80, 0xff] {
            bytes[index] ^= mask;
            assert!(State::from_bytes(bytes.as_slice()).is_err(), "byte {index}");
            bytes[index] ^= mask;
        }
    }
    assert_eq!(State::from_bytes(bytes).unwrap(), state);
}

#[test]
fn every_truncation_is_noticed() {
    let (mut context, sequence) = filled(&exact_params(), 1);
    let state = context.save(&sequence).unwrap();
    for length in 0..state.as_bytes().len() {
        let cut = error(State::from_bytes(&state.as_bytes()[..length]));
        match length {
            0 => assert!(matches!(cut, StateError::NotAState { .. }), "{cut}"),
            _ => assert!(matches!(cut, StateError::Length { got, .. } if got == length as u64), "{cut}"),
        }
    }
    let longer = [state.as_bytes(), &[0]].concat();
    assert!(matches!(error(State::from_bytes(longer)), StateError::Length { .. }));
}

#[test]
fn random_bytes_are_no_state() {
    let random: Vec<u8> = (0..4096u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    assert!(matches!(error(State::from_bytes(random)), StateError::NotAState { .. }));
    assert!(matches!(error(State::from_bytes(b"GGUF".as_slice())), StateError::NotAState { .. }));
}

/// Raw llama.cpp takes the first three of these, and computes with them.
#[test]
fn a_state_of_another_model_is_refused() {
    let (mut context, sequence) = filled(&exact_params(), 6);
    let state = context.save(&sequence).unwrap();
    drop(sequence);
    let shape = Llama::tiny();
    let others = [
        model(&shape, Weights::F32, 2),
        model(&Llama { rope_base: 2.0 * shape.rope_base, ..shape }, Weights::F32, 1),
        model(&shape, Weights::F16, 1),
        family(Family::Qwen2, Weights::F32),
        family(Family::Mamba, Weights::F32),
    ];
    for other in others {
        let mut context = Context::new(&other, &exact_params()).unwrap();
        assert!(matches!(error(context.restore(&state)), StateError::OtherModel));
        assert_eq!(context.new_sequence().unwrap().id().slot(), 0, "no slot is lost");
    }
    still_works(&mut context);
}

/// What a model is told by is its content, wherever that comes from.
#[test]
fn a_model_is_the_same_from_a_file_and_from_memory() {
    let folder = Folder::new("model");
    let path = folder.0.join("model.gguf");
    let gguf = Llama::tiny().gguf(Weights::F32, 1).unwrap();
    fs::write(&path, &gguf).unwrap();
    let (mut context, sequence) = filled(&exact_params(), 6);
    let state = context.save(&sequence).unwrap();
    let restored = |path: &Path, params: &ModelParams| {
        let mut context = Context::new(&Model::load(path, params).unwrap(), &exact_params()).unwrap();
        context.restore(&state).map(|sequence| sequence.len())
    };
    let plain = ModelParams::default();
    assert_eq!(restored(&path, &plain).unwrap(), 6);
    let key = "llama.rope.freq_base";
    let rotated = plain.clone().override_metadata(key, MetadataValue::Float(5000.0));
    assert!(matches!(error(restored(&path, &rotated)), StateError::OtherModel));
    // One bit of the last weight.
    let mut other = gguf;
    *other.last_mut().unwrap() ^= 1;
    fs::write(&path, &other).unwrap();
    assert!(matches!(error(restored(&path, &plain)), StateError::OtherModel));
}

#[test]
fn a_generated_model_is_told_by_its_weights() {
    let mut gguf = fixtures::gguf::Gguf::default();
    gguf.set("general.architecture", "llama");
    for (key, value) in [("context_length", 256_u32), ("embedding_length", 32), ("block_count", 1), ("vocab_size", 16)]
    {
        gguf.set(format!("llama.{key}"), value);
    }
    gguf.set("llama.feed_forward_length", 64_u32);
    gguf.set("llama.attention.head_count", 2_u32);
    gguf.set("llama.attention.layer_norm_rms_epsilon", 1e-5_f32);
    gguf.set("tokenizer.ggml.model", "none");
    let metadata = gguf.header();
    let context = |weight: f32| {
        let model = Model::generate(&metadata, &ModelParams::default(), |_, values| values.fill(weight)).unwrap();
        Context::new(&model, &params().context_tokens(256)).unwrap()
    };
    let mut first = context(0.5);
    let sequence = decoded(&mut first, &[Token(1), Token(2)]);
    let state = first.save(&sequence).unwrap();
    assert_eq!(context(0.5).restore(&state).unwrap().len(), 2);
    assert!(matches!(error(context(0.25).restore(&state)), StateError::OtherModel));
}

/// With the default parameters, and in formats that round: what is restored is what was there, to the bit.
#[test]
fn what_is_restored_is_the_same_to_the_bit() {
    for weights in [Weights::F16, Weights::Q8_0, Weights::Q4_0] {
        let settings = params().sequences(2).context_tokens(1024);
        let mut context = Context::new(&tiny(weights), &settings).unwrap();
        let sequence = decoded(&mut context, &prompt(1, 100));
        let state = context.save(&sequence).unwrap();
        let want = next(&mut context, &sequence);
        let restored = context.restore(&state).unwrap();
        assert_eq!(context.save(&restored).unwrap().as_bytes()[PAYLOAD..][..1000], state.as_bytes()[PAYLOAD..][..1000]);
        assert_eq!(next(&mut context, &restored), want, "{weights:?}");
    }
}

/// A context that computes embeddings has a memory as any other.
#[test]
fn embeddings_go_on_after_a_restore() {
    let settings = exact_params().embeddings(true).pooling(Pooling::Last);
    let mut context = Context::new(&tiny(Weights::F32), &settings).unwrap();
    let embed = |context: &mut Context, sequence: &Sequence| {
        let mut batch = context.new_batch();
        batch.push(sequence, Token(17)).unwrap();
        context.decode(&mut batch).unwrap().sequence_embedding(sequence).unwrap().to_vec()
    };
    let sequence = decoded(&mut context, &prompt(1, 9));
    let state = context.save(&sequence).unwrap();
    let want = embed(&mut context, &sequence);
    let mut other = Context::new(&tiny(Weights::F32), &settings).unwrap();
    let restored = other.restore(&state).unwrap();
    assert_equal(&embed(&mut other, &restored), &want, 1e-6, "an embedding after a restore");
}

#[test]
fn a_state_of_other_parameters_is_refused() {
    let (mut context, sequence) = filled(&exact_params(), 6);
    let state = context.save(&sequence).unwrap();
    let what = |params: &ContextParams| match error(Context::new(&tiny(Weights::F32), params).unwrap().restore(&state))
    {
        StateError::OtherContext { what, found, expected } => (what, found, expected),
        other => panic!("{other}"),
    };
    assert_eq!(what(&exact_params().kv_type(KvType::F16)), ("a KV cache with keys of ggml's type", 0, 1));
    let fused = exact_params().flash_attention(FlashAttention::On);
    assert_eq!(what(&fused), ("transposed values (no flash attention)", 1, 0));
}

/// Keys and values were computed with them.
#[test]
fn a_state_under_other_adapters_is_refused() {
    let shape = Llama::tiny();
    let model = tiny(Weights::F32);
    let adapter = |seed| Adapter::from_bytes(&model, &Lora::tiny().gguf(&shape, seed).unwrap()).unwrap();
    let (one, same, other) = (adapter(1), adapter(1), adapter(2));
    let mut context = Context::new(&model, &exact_params().sequences(3)).unwrap();
    let plain = decoded(&mut context, &prompt(1, 6));
    let plain = context.save(&plain).unwrap();
    context.set_adapters(&[(&one, 0.5), (&other, 1.0)]).unwrap();
    let sequence = decoded(&mut context, &prompt(1, 6));
    let adapted = context.save(&sequence).unwrap();
    let want = next(&mut context, &sequence);
    let directions = vec![0.1; ((model.layers() - 1) * model.width()) as usize];
    let restore = |context: &mut Context, state: &State| match context.restore(state) {
        Ok(sequence) => Ok(next(context, &sequence)),
        Err(StateError::OtherAdapters) => Err(()),
        Err(error) => panic!("{error}"),
    };
    assert_eq!(restore(&mut context, &plain), Err(()));
    for others in [vec![], vec![(&one, 0.5)], vec![(&one, 0.4), (&other, 1.0)], vec![(&one, 1.0), (&other, 0.5)]] {
        context.set_adapters(&others).unwrap();
        assert_eq!(restore(&mut context, &adapted), Err(()));
    }
    context.set_adapters(&[(&other, 1.0), (&same, 0.5)]).unwrap();
    assert_equal(&restore(&mut context, &adapted).unwrap(), &want, 1e-6, "under the same adapters");
    context.set_control_vector(&directions, 1..=1).unwrap();
    assert_eq!(restore(&mut context, &adapted), Err(()));
    context.clear_control_vector().unwrap();
    assert_equal(&restore(&mut context, &adapted).unwrap(), &want, 1e-6, "without a control vector again");
}

#[test]
fn what_a_state_needs_is_told_in_numbers() {
    let large = exact_params().context_tokens(1024);
    let (mut context, sequence) = filled(&large, 400);
    let other = decoded(&mut context, &prompt(2, 250));
    let (one, all) = (context.save(&sequence).unwrap(), context.save_all().unwrap());
    assert!(matches!(error(context.restore(&one)), StateError::NotEnoughSequences { needed: 1, free: 0 }));
    assert!(matches!(error(context.restore(&all)), StateError::SeveralSequences { found: 2 }));
    assert_eq!(
        all.sequences().iter().map(|saved| (saved.slot(), saved.len())).collect::<Vec<_>>(),
        [(0, 400), (1, 250)]
    );
    drop((sequence, other));

    let mut small = Context::new(&tiny(Weights::F32), &exact_params()).unwrap();
    assert!(matches!(error(small.restore(&one)), StateError::TooLong { length: 400, limit: 256 }));
    still_works(&mut context);
}

/// llama.cpp stops half way, with what it had read in the cells.
#[test]
fn without_room_nothing_is_restored() {
    let params = exact_params().kv_layout(KvLayout::Unified).sequences(4).context_tokens(256);
    let mut context = Context::new(&tiny(Weights::F32), &params).unwrap();
    let sequences = [decoded(&mut context, &prompt(1, 60)), decoded(&mut context, &prompt(2, 60))];
    let all = context.save_all().unwrap();
    let kept = decoded(&mut context, &prompt(3, 50));
    let refused = error(context.restore_all(&all));
    assert!(matches!(refused, StateError::NotEnoughSequences { needed: 2, free: 1 }), "{refused}");
    drop(sequences);
    let large = decoded(&mut context, &prompt(4, 100));
    // 150 cells are taken: the first of the two fits, the second does not.
    let refused = error(context.restore_all(&all));
    assert!(matches!(refused, StateError::NoRoom { tokens: 60, context_tokens: 256 }), "{refused}");
    drop(large);
    let restored = context.restore_all(&all).unwrap();
    assert_eq!(restored.iter().map(Sequence::len).collect::<Vec<_>>(), [60, 60]);
    drop(restored);

    // What was not restored has left no trace in the sequence beside it.
    let (mut alone, same) = (Context::new(&tiny(Weights::F32), &params).unwrap(), prompt(3, 50));
    let same = decoded(&mut alone, &same);
    assert_equal(&next(&mut context, &kept), &next(&mut alone, &same), 1e-6, "beside a failed restore");
}

/// llama.cpp saves keys that are not rotated to their new positions yet, as if they were.
#[test]
fn a_shift_that_waits_is_carried_out_before_saving() {
    for (sequences, layout) in [(2, KvLayout::Split), (1, KvLayout::Split), (2, KvLayout::Unified)] {
        let params = exact_params().sequences(sequences).kv_layout(layout);
        let (mut context, sequence) = filled(&params, 40);
        context.shift(&sequence, 3..20).unwrap();
        let state = context.save(&sequence).unwrap();
        assert_eq!(sequence.len(), 23);
        let mut other = Context::new(&tiny(Weights::F32), &params).unwrap();
        let restored = other.restore(&state).unwrap();
        assert_equal(&next(&mut other, &restored), &next(&mut context, &sequence), 1e-6, "after a shift");
        drop((sequence, restored));
    }
}

/// llama.cpp saves the cells of a fork, and whatever numbers were in their place before the copy that waits.
#[test]
fn a_fork_that_waits_is_carried_out_before_saving() {
    for sequences in [2, 3] {
        let params = exact_params().sequences(sequences);
        let (mut context, sequence) = filled(&params, 20);
        let fork = context.fork_prefix(&sequence, 15).unwrap();
        let state = context.save(&fork).unwrap();
        let mut other = Context::new(&tiny(Weights::F32), &params).unwrap();
        let restored = other.restore(&state).unwrap();
        assert_equal(&next(&mut other, &restored), &next(&mut context, &fork), 1e-6, "after a fork");
    }
}

/// The copy that a dropped fork had asked for would be made over what was restored into its slot.
#[test]
fn a_copy_that_waits_does_not_overwrite_what_is_restored() {
    let (mut context, sequence) = filled(&exact_params(), 20);
    let state = context.save(&sequence).unwrap();
    let want = next(&mut context, &sequence);
    context.clear(&sequence).unwrap();
    let mut batch = context.new_batch();
    batch.extend(&sequence, &prompt(5, 30)).unwrap();
    context.decode(&mut batch).unwrap();
    drop(context.fork(&sequence).unwrap());
    let restored = context.restore(&state).unwrap();
    assert_equal(&next(&mut context, &restored), &want, 1e-6, "in the slot of a fork");
}

#[test]
fn what_cannot_be_carried_out_is_not_saved() {
    let params = params().sequences(2).context_tokens(512).kv_type(KvType::F32).flash_attention(FlashAttention::Off);
    let mut context = Context::new(&family(Family::Hybrid, Weights::F32), &params).unwrap();
    let sequence = decoded(&mut context, &prompt(1, 9));
    let fork = context.fork(&sequence).unwrap();
    assert!(matches!(error(context.save(&fork)), StateError::Unsettled));
    let want = next(&mut context, &sequence);
    let state = context.save(&fork).unwrap();
    drop(fork);
    let fork = context.restore(&state).unwrap();
    assert_equal(&next(&mut context, &fork), &want, 1e-6, "the fork of a hybrid");
}

/// A fresh context computes a token before it restores: Chameleon's graph aborts in a pass without output
/// (models/chameleon.cpp:198).
#[test]
fn a_model_that_needs_an_output_in_each_pass_is_restored() {
    let model = batch_suite::architectures::architecture("chameleon").unwrap();
    let tokens: Vec<Token> = (3..9).map(Token).collect();
    let mut context = Context::new(&model, &exact_params()).unwrap();
    let sequence = decoded(&mut context, &tokens);
    let state = context.save(&sequence).unwrap();
    let want = next(&mut context, &sequence);
    let mut context = Context::new(&model, &exact_params()).unwrap();
    let restored = context.restore(&state).unwrap();
    assert_eq!(next(&mut context, &restored), want);
}

#[test]
fn outputs_are_gone_after_a_restore() {
    let (mut context, sequence) = filled(&exact_params(), 6);
    let state = context.save(&sequence).unwrap();
    next(&mut context, &sequence);
    assert!(context.outputs().is_some());
    let _restored = context.restore(&state).unwrap();
    assert!(context.outputs().is_none());
}

#[test]
fn sequences_that_cannot_be_used_are_not_saved() {
    let (mut context, sequence) = filled(&exact_params(), 6);
    let (_other, foreign) = filled(&exact_params(), 6);
    assert!(matches!(error(context.save(&foreign)), StateError::Sequence(SequenceError::Foreign { .. })));
    drop(sequence);
    still_works(&mut context);

    let mut context = Context::new(&family(Family::Mamba, Weights::F32), &params().sequences(2)).unwrap();
    let sequence = decoded(&mut context, &prompt(1, 6));
    context.abort_handle().abort_after(3);
    let mut batch = context.new_batch();
    batch.extend(&sequence, &prompt(2, 6)).unwrap();
    context.decode(&mut batch).unwrap_err();
    context.abort_handle().reset();
    assert!(sequence.is_damaged());
    let damaged: SeqId = sequence.id();
    let refused = |error| matches!(error, StateError::Sequence(SequenceError::Damaged { id }) if id == damaged);
    assert!(refused(error(context.save(&sequence))) && refused(error(context.save_all())));
}

/// An abort that waits for the next computation does not stop the one token that a restore computes.
#[test]
fn a_restore_is_not_aborted() {
    let (mut context, sequence) = filled(&exact_params(), 6);
    let state = context.save(&sequence).unwrap();
    let want = next(&mut context, &sequence);
    let mut other = Context::new(&tiny(Weights::F32), &exact_params()).unwrap();
    other.abort_handle().abort();
    let restored = other.restore(&state).unwrap();
    other.abort_handle().reset();
    assert_equal(&next(&mut other, &restored), &want, 1e-6, "restored while aborted");
}

#[test]
fn an_empty_sequence_is_saved_and_restored() {
    let mut context = Context::new(&tiny(Weights::F32), &exact_params()).unwrap();
    let sequence = context.new_sequence().unwrap();
    let state = context.save(&sequence).unwrap();
    assert!(state.sequences()[0].is_empty());
    assert!(context.restore(&state).unwrap().is_empty());
    drop(sequence);
    let none = context.save_all().unwrap();
    assert!(context.restore_all(&none).unwrap().is_empty());
    still_works(&mut context);
}

/// Snapshots of a recurrent state are of a memory, not of a state: what is restored cannot go back.
#[test]
fn a_state_that_went_back_is_saved_as_it_is() {
    let settings = params().sequences(2).context_tokens(512).kv_type(KvType::F32).flash_attention(FlashAttention::Off);
    let model = family(Family::Hybrid, Weights::F32);
    let mut context = Context::new(&model, &settings.clone().rollback_tokens(3)).unwrap();
    let sequence = decoded(&mut context, &prompt(1, 12));
    context.truncate(&sequence, 10).unwrap();
    let state = context.save(&sequence).unwrap();
    let want = next(&mut context, &sequence);
    for settings in [settings.clone(), settings.rollback_tokens(3)] {
        let mut context = Context::new(&model, &settings).unwrap();
        // What the slot's last owner left there must not be gone back to.
        drop(decoded(&mut context, &prompt(2, 12)));
        let restored = context.restore(&state).unwrap();
        assert_eq!(restored.len(), 10);
        assert!(matches!(context.truncate(&restored, 9), Err(MemoryError::CannotTruncate { .. })));
        assert_equal(&next(&mut context, &restored), &want, 1e-6, "a state that went back");
    }
}

/// A folder that is deleted when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("state-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_file_holds_the_same() {
    let folder = Folder::new("same");
    let (mut context, sequence) = filled(&exact_params(), 6);
    let state = context.save(&sequence).unwrap();
    let path = folder.0.join("one.state");
    fs::write(&path, b"something else").unwrap();
    state.write(&path).unwrap();
    assert_eq!(State::read(&path).unwrap(), state);
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn a_file_that_cannot_be_written_keeps_what_it_held() {
    let folder = Folder::new("keep");
    let (mut context, sequence) = filled(&exact_params(), 6);
    let state = context.save(&sequence).unwrap();
    let path = folder.0.join("taken");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("inside"), b"old").unwrap();
    assert!(matches!(error(state.write(&path)), StateError::NotWritten { path: named, .. } if named == path));
    assert_eq!(fs::read(path.join("inside")).unwrap(), b"old");
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1, "no temporary file is left");
    assert!(matches!(error(state.write(folder.0.join("none/state"))), StateError::NotWritten { .. }));
}

#[test]
fn files_that_are_no_state_are_refused_before_memory_is_taken() {
    let folder = Folder::new("refused");
    let (mut context, sequence) = filled(&exact_params(), 6);
    let good = context.save(&sequence).unwrap().into_bytes();
    let path = folder.0.join("bad.state");
    let read = |bytes: &[u8], length: u64| {
        fs::write(&path, bytes).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
        error(State::read(&path))
    };
    assert!(matches!(read(&good, good.len() as u64 - 1), StateError::Length { .. }));
    // A terabyte of zeros after a header that does not tell of it, and in a file that is none of ours.
    assert!(matches!(read(&good, 1 << 40), StateError::Length { got, .. } if got == 1 << 40));
    assert!(matches!(read(b"", 1 << 40), StateError::NotAState { .. }));
    // A header that tells of a terabyte.
    let mut claims = good.clone();
    claims[16..24].copy_from_slice(&(1u64 << 40).to_le_bytes());
    assert!(matches!(read(&claims, good.len() as u64), StateError::Length { expected, .. } if expected == 1 << 40));
    assert!(matches!(error(State::read(&folder.0)), StateError::Unreadable { .. }));
    assert!(matches!(error(State::read(folder.0.join("none"))), StateError::Unreadable { .. }));
    if cfg!(unix) {
        assert!(matches!(error(State::read(Path::new("/dev/zero"))), StateError::Unreadable { .. }));
        // Nobody writes to it: who opens it waits for ever.
        let pipe = folder.0.join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert!(matches!(error(State::read(&pipe)), StateError::Unreadable { .. }));
    }
}

/// A generator of numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % end
    }
}

/// Changes a state as somebody would who knows the format: some numbers, as often as not where structure is rather than
/// weights, and its length now and then.
fn mutate(state: &State, random: &mut Random) -> Option<State> {
    const NUMBERS: [u32; 14] =
        [0, 1, 2, 3, 7, 8, 9, 255, 256, 0x7c00_7c00, 0x7f80_0000, 0x7fff_ffff, 0x8000_0000, u32::MAX];
    let mut bytes = state.as_bytes().to_vec();
    bytes.truncate(bytes.len() - 32);
    for _ in 0..=random.below(4) {
        let payload = bytes.len() - PAYLOAD;
        let at = match random.below(4) {
            0 => PAYLOAD + random.below(payload),
            1 => 144 + 4 * random.below(6),
            _ => PAYLOAD + random.below(payload.min(240)) / 4 * 4,
        };
        let room = bytes.len() - at;
        match random.below(4) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 if room >= 4 => bytes[at..at + 4].copy_from_slice(&NUMBERS[random.below(14)].to_ne_bytes()),
            2 if room >= 4 => {
                let number = u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
                let near = number.wrapping_add(random.below(5) as u32).wrapping_sub(2);
                bytes[at..at + 4].copy_from_slice(&near.to_ne_bytes());
            }
            _ => match random.below(12) {
                0 => bytes.truncate(bytes.len() - random.below(payload.min(64))),
                1 => bytes.extend_from_slice(&vec![0; random.below(64)]),
                2 => drop(bytes.splice(at..at, [0; 4])),
                _ => {}
            },
        }
    }
    let payload = (bytes.len() - PAYLOAD) as u64;
    bytes[152..160].copy_from_slice(&payload.to_le_bytes());
    let total = bytes.len() as u64 + 32;
    bytes[16..24].copy_from_slice(&total.to_le_bytes());
    let checksum = blake3::hash(&bytes);
    bytes.extend_from_slice(checksum.as_bytes());
    State::from_bytes(bytes).ok()
}

/// Whoever forges a state gets an error or a sequence that decodes, and does no harm to the sequence beside it. Without the
/// checks in between, llama.cpp aborts or leaves cells that nothing frees.
fn forgeries_are_harmless(which: Family, layout: KvLayout, count: u32) -> u32 {
    let settings = params().sequences(3).context_tokens(768).batch_tokens(64).kv_layout(layout);
    let settings = settings.kv_type(KvType::F32).flash_attention(FlashAttention::Off);
    let mut context = Context::new(&family(which, Weights::F32), &settings).unwrap();
    let beside = decoded(&mut context, &prompt(1, 12));
    let sequence = decoded(&mut context, &prompt(2, 11));
    let (state, beside_state) = (context.save(&sequence).unwrap(), context.save(&beside).unwrap());
    let want = [next(&mut context, &beside), next(&mut context, &sequence)];
    drop((beside, sequence));
    let mut beside = context.restore(&beside_state).unwrap();
    let mut random = Random(u64::from(count) + which as u64);
    let mut accepted = 0;
    for round in 0..count {
        let Some(forged) = mutate(&state, &mut random) else { continue };
        if let Ok(sequence) = context.restore(&forged) {
            assert_eq!(context.span(&sequence).unwrap().end, sequence.len());
            next(&mut context, &sequence);
            accepted += 1;
        }
        if round % 16 == 0 {
            assert_equal(&next(&mut context, &beside), &want[0], 1e-6, &format!("{which}: beside forgery {round}"));
            drop(beside);
            beside = context.restore(&beside_state).unwrap();
        }
    }
    let sequence = context.restore(&state).unwrap();
    assert_equal(&next(&mut context, &sequence), &want[1], 1e-6, &format!("{which}: after {count} forgeries"));
    accepted
}

#[test]
fn forged_states_harm_nothing() {
    let rounds = if is_leak_check() { 20 } else { 400 };
    for which in [Family::Llama, Family::Gemma, Family::Mamba, Family::Hybrid, Family::Rwkv, Family::Qwen2Vl] {
        for layout in [KvLayout::Split, KvLayout::Unified] {
            let accepted = forgeries_are_harmless(which, layout, rounds);
            assert!(accepted > 0 && accepted < rounds, "{which}: {accepted} of {rounds} were restored");
        }
    }
}

/// The numbers that llama.cpp trusts, one by one. A second cell of a recurrent state ends the process
/// (llama-memory-recurrent.cpp:1052). A position below zero makes a cell that removing the sequence leaves there
/// (llama-kv-cache.cpp:424), to be seen by the slot's next one. A NaN is in the result of every sequence beside it.
#[test]
fn each_number_that_llama_cpp_trusts_is_checked() {
    let refused = |which: Family, at: usize, number: i32| {
        let settings = params().sequences(2).context_tokens(512);
        let mut context = Context::new(&family(which, Weights::F32), &settings).unwrap();
        let sequence = decoded(&mut context, &prompt(1, 3));
        let state = context.save(&sequence).unwrap();
        let forged = forged(&state, |bytes| bytes[PAYLOAD + at..][..4].copy_from_slice(&number.to_ne_bytes()));
        match error(context.restore(&forged)) {
            StateError::Malformed { at, what } => (at, what),
            StateError::NotFinite { at } => (at, "not finite"),
            other => panic!("{which}: {other}"),
        }
    };
    // Streams, cells; the first cell's position, sequences and sequence; then what is said once for all layers.
    assert_eq!(refused(Family::Llama, 0, 2), (0, "streams of cells"));
    assert_eq!(refused(Family::Llama, 4, 4), (44, "position of a cell"), "more than there are");
    assert_eq!(refused(Family::Llama, 4, 2), (32, "a cell for each position"));
    assert_eq!(refused(Family::Llama, 4, 0), (4, "cells"));
    assert_eq!(refused(Family::Llama, 4, -1), (4, "cells"));
    for position in [-1, -5, 3, i32::MAX, i32::MIN] {
        assert_eq!(refused(Family::Llama, 8, position), (8, "position of a cell"));
    }
    assert_eq!(refused(Family::Llama, 8, 1), (20, "position of a cell"), "twice the same");
    assert_eq!(refused(Family::Llama, 12, 0), (12, "sequences of a cell"));
    assert_eq!(refused(Family::Llama, 16, 1), (16, "sequence of a cell"));
    assert_eq!(refused(Family::Llama, 48, 99), (48, "layers with keys"));
    assert_eq!(refused(Family::Llama, 60, 0), (60, "type of numbers"));
    assert_eq!(refused(Family::Llama, 64, 1), (64, "bytes of a row"));
    assert_eq!(refused(Family::Llama, 72, 0x7c00), (72, "not finite"));
    // Cells and position.
    assert_eq!(refused(Family::Mamba, 0, 2), (0, "cells of a recurrent state"));
    assert_eq!(refused(Family::Mamba, 4, 7), (4, "position of a recurrent state"));
    assert_eq!(refused(Family::Mamba, 8, 1), (8, "sequences of a recurrent state"));
}
