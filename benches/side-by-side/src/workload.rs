//! What is asked of every side.

use crate::protocol::{Order, Request};

/// Tokens of each prompt of the uniform workload.
pub const PROMPT: u32 = 128;
/// Tokens generated for each.
pub const GENERATE: u32 = 64;

/// The lowest token of a prompt: those before may be control tokens.
const FIRST: u32 = 3;

/// `sequences` requests at once, of the same lengths and with different prompts.
#[must_use]
pub fn uniform(vocabulary: u32, sequences: u32, threads: u32) -> Order {
    let requests = (0..sequences).map(|salt| Request { prompt: prompt(salt, PROMPT, vocabulary), generate: GENERATE });
    Order { workload: "uniform".to_owned(), threads, concurrent: sequences, requests: requests.collect() }
}

/// Requests of the workloads that are served: more than run at a time.
pub const SERVED: u32 = 32;
/// As many run at a time.
pub const CLIENTS: u32 = 8;
/// Tokens that the prompts of the shared workload have in common.
pub const COMMON: u32 = 512;
/// Tokens of each behind those.
pub const OWN: u32 = 16;

/// 32 requests of the uniform workload's lengths, 8 at a time.
#[must_use]
pub fn load(vocabulary: u32, threads: u32) -> Order {
    Order { workload: "load".to_owned(), concurrent: CLIENTS, ..uniform(vocabulary, SERVED, threads) }
}

/// 32 requests, 8 at a time, whose prompts begin with the same 512 tokens and go on with 16 of their own. Nobody has seen them before.
#[must_use]
pub fn shared(vocabulary: u32, threads: u32) -> Order {
    let common = prompt(SERVED, COMMON, vocabulary);
    let prompt = |salt: u32| [common.clone(), prompt(salt, OWN, vocabulary)].concat();
    let requests = (0..SERVED).map(|salt| Request { prompt: prompt(salt), generate: GENERATE });
    Order { workload: "shared".to_owned(), threads, concurrent: CLIENTS, requests: requests.collect() }
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
        for order in [load(49_152, 2), shared(49_152, 2)] {
            assert_eq!((order.requests.len(), order.concurrent), (32, 8));
        }
        let shared = shared(49_152, 2);
        let (first, second) = (&shared.requests[0].prompt, &shared.requests[1].prompt);
        assert_eq!((first.len(), &first[..512]), (528, &second[..512]));
        assert_ne!(first[512], second[512]);
    }

    #[test]
    fn orders_with_fewer_sequences_begin_like_those_with_more() {
        let (few, many) = (uniform(512, 2, 2), uniform(512, 8, 2));
        assert_eq!(few.requests, many.requests[..2]);
    }
}
