//! What is asked of every side.

use crate::protocol::{Order, Request};

/// The workload whose requests are all there at once, and all run at once.
pub const UNIFORM: &str = "uniform";
/// Tokens of each prompt of the uniform workload.
pub const PROMPT: u32 = 128;
/// Tokens generated for each.
pub const GENERATE: u32 = 64;

/// The lowest token of a prompt: those before may be control tokens.
const FIRST: u32 = 3;

/// `sequences` requests at once, of the same lengths and with different prompts.
#[must_use]
pub fn uniform(vocabulary: u32, sequences: u32, threads: u32) -> Order {
    let requests = (0..sequences).map(|salt| request(prompt(salt, PROMPT, vocabulary), GENERATE));
    Order { workload: UNIFORM.to_owned(), threads, concurrent: sequences, requests: requests.collect() }
}

/// Requests of the workloads that are served: more than run at a time.
pub const SERVED: u32 = 32;
/// As many clients send them, each one after the other, where nothing else is said.
pub const CLIENTS: u32 = 8;
/// Tokens that the prompts of the shared workload have in common.
pub const COMMON: u32 = 512;
/// Tokens of each behind those.
pub const OWN: u32 = 16;

/// 32 requests of the uniform workload's lengths, by so many clients.
#[must_use]
pub fn load(vocabulary: u32, clients: u32, threads: u32) -> Order {
    Order { workload: "load".to_owned(), concurrent: clients, ..uniform(vocabulary, SERVED, threads) }
}

/// 32 requests, 8 at a time, whose prompts begin with the same 512 tokens and go on with 16 of their own. Nobody has seen them before.
#[must_use]
pub fn shared(vocabulary: u32, threads: u32) -> Order {
    let common = prompt(SERVED, COMMON, vocabulary);
    let prompt = |salt: u32| [common.clone(), prompt(salt, OWN, vocabulary)].concat();
    let requests = (0..SERVED).map(|salt| request(prompt(salt), GENERATE));
    Order { workload: "shared".to_owned(), threads, concurrent: CLIENTS, requests: requests.collect() }
}

/// Requests of the ragged workload.
pub const RAGGED: u32 = 16;
/// Milliseconds from one of them to the next.
pub const EVERY_MS: u32 = 1000;
/// The shortest and the longest prompt, and the fewest and the most tokens that are generated.
pub const RAGGED_PROMPT: [u32; 2] = [8, 512];
/// As for prompts.
pub const RAGGED_GENERATE: [u32; 2] = [8, 128];

/// 16 requests of very different lengths, one each second, of which 8 are computed at a time.
#[must_use]
pub fn ragged(vocabulary: u32, threads: u32) -> Order {
    // Multiples of the golden ratio and of the root of two, without their whole parts, are spread evenly, however many they are.
    let spread = |index: u32, step: f64, [low, high]: [u32; 2]| {
        low + ((f64::from(index) * step).fract() * f64::from(high - low + 1)) as u32
    };
    let requests = (0..RAGGED).map(|index| {
        let length = spread(index + 1, 0.618_034, RAGGED_PROMPT);
        let generate = spread(index + 1, 0.414_214, RAGGED_GENERATE);
        Request { after_ms: index * EVERY_MS, ..request(prompt(index, length, vocabulary), generate) }
    });
    Order { workload: "ragged".to_owned(), threads, concurrent: CLIENTS, requests: requests.collect() }
}

/// Whether requests come over time, whatever became of those before. Else they come at once, or as clients get to them.
#[must_use]
pub fn over_time(order: &Order) -> bool {
    order.requests.iter().any(|request| request.after_ms > 0)
}

fn request(prompt: Vec<i32>, generate: u32) -> Request {
    Request { prompt, generate, after_ms: 0 }
}

/// `length` tokens of a vocabulary, others for each salt.
fn prompt(salt: u32, length: u32, vocabulary: u32) -> Vec<i32> {
    // Products of 64 bits, so that nothing overflows; primes, so that no two prompts begin alike.
    let token = |place: u64| u64::from(salt) * 7919 + place * 104_729 + place * place * 31;
    let range = u64::from(vocabulary.max(FIRST + 1) - FIRST);
    (0..u64::from(length)).map(|place| (token(place) % range) as i32 + FIRST as i32).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn prompts_are_of_the_vocabulary_and_begin_differently() {
        let order = uniform(49_152, 32, 2);
        assert_eq!((order.concurrent, order.requests.len()), (32, 32));
        let starts: BTreeSet<i32> = order.requests.iter().map(|request| request.prompt[0]).collect();
        assert_eq!(starts.len(), 32);
        for request in &order.requests {
            assert_eq!((request.prompt.len(), request.generate), (128, 64));
            assert!(request.prompt.iter().all(|token| (3..49_152).contains(token)));
        }
    }

    #[test]
    fn served_orders_have_more_requests_than_run() {
        for order in [load(49_152, 8, 2), shared(49_152, 2)] {
            assert_eq!((order.requests.len(), order.concurrent), (32, 8));
        }
        let shared = shared(49_152, 2);
        let (first, second) = (&shared.requests[0].prompt, &shared.requests[1].prompt);
        assert_eq!((first.len(), &first[..512]), (528, &second[..512]));
        assert_ne!(first[512], second[512]);
    }

    #[test]
    fn ragged_requests_come_over_time_and_differ_in_length() {
        let order = ragged(49_152, 2);
        assert!(over_time(&order) && !over_time(&load(49_152, 8, 2)));
        assert_eq!(order.requests.last().unwrap().after_ms, 15_000);
        let lengths = |of: fn(&Request) -> u32| -> Vec<u32> {
            let mut lengths: Vec<u32> = order.requests.iter().map(of).collect();
            lengths.sort_unstable();
            lengths
        };
        for (lengths, [low, high]) in [
            (lengths(|request| request.prompt.len() as u32), RAGGED_PROMPT),
            (lengths(|request| request.generate), RAGGED_GENERATE),
        ] {
            let quarter = (high - low) / 4;
            assert!(lengths[0] >= low && lengths[0] < low + quarter, "{lengths:?}");
            assert!(lengths[15] <= high && lengths[15] > high - quarter, "{lengths:?}");
            assert!(lengths[8].abs_diff(u32::midpoint(low, high)) < quarter, "{lengths:?}");
        }
    }

    #[test]
    fn orders_with_fewer_sequences_begin_like_those_with_more() {
        let (few, many) = (uniform(512, 2, 2), uniform(512, 8, 2));
        assert_eq!(few.requests, many.requests[..2]);
    }
}
