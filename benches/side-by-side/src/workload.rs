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
    fn orders_with_fewer_sequences_begin_like_those_with_more() {
        let (few, many) = (uniform(512, 2, 2), uniform(512, 8, 2));
        assert_eq!(few.requests, many.requests[..2]);
    }
}
