//! What is done about a step that failed: plain data.
#![forbid(unsafe_code)]

/// What an engine does when a batch could not be computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FallbackPolicy {
    /// The requests of the batch end with its error.
    NativeOnly,
    /// The batch is tried again in halves, down to one sequence at a time: one that fails alone ends with its error, all others
    /// go on as if nothing had been.
    #[default]
    Split,
    /// The batch is tried again one sequence at a time.
    Sequential,
}

/// Why a step failed, as far as it matters for what is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cause {
    /// No room in memory.
    NoRoom,
    /// Anything else.
    Failure,
}

/// How things stand after a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Situation {
    pub cause: Cause,
    /// Sequences of the batch that failed.
    pub parts: usize,
    /// Times that this very sequence has failed alone.
    pub alone: u32,
    /// Whether it may have failed for what others have left in memory, which is empty now.
    pub doubtful: bool,
    /// Sequences of cached prefixes, which are nobody's.
    pub cached: usize,
    /// Running sequences beside those of the batch, and in it but for one.
    pub others: usize,
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Remedy {
    /// Drop the cached prefix that was used longest ago, and try again.
    Evict,
    /// Take the memory of the running request that is last in order, to be computed again later, and try again.
    Preempt,
    /// Try both halves.
    Halve,
    /// Try each by itself.
    Singly,
    /// Try the same once more.
    Repeat,
    /// End them with the error.
    End,
}

/// Tries of a sequence by itself before it is given up.
const TRIES_ALONE: u32 = 2;

/// What is done about a failure.
pub(crate) fn remedy(policy: FallbackPolicy, now: Situation) -> Remedy {
    // Room is made under any policy: that is not a failure of what was asked for.
    if now.cause == Cause::NoRoom {
        if now.cached > 0 {
            return Remedy::Evict;
        }
        if now.others > 0 {
            return Remedy::Preempt;
        }
    }
    match policy {
        FallbackPolicy::NativeOnly => Remedy::End,
        FallbackPolicy::Split if now.parts > 1 => Remedy::Halve,
        FallbackPolicy::Sequential if now.parts > 1 => Remedy::Singly,
        FallbackPolicy::Split | FallbackPolicy::Sequential if now.doubtful || now.alone + 1 < TRIES_ALONE => {
            Remedy::Repeat
        }
        FallbackPolicy::Split | FallbackPolicy::Sequential => Remedy::End,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: Situation =
        Situation { cause: Cause::Failure, parts: 8, alone: 0, doubtful: false, cached: 3, others: 7 };
    const ALONE: Situation = Situation { parts: 1, others: 0, cached: 0, ..BATCH };

    #[test]
    fn room_is_made_first_under_any_policy() {
        use FallbackPolicy::{NativeOnly, Sequential, Split};
        for policy in [NativeOnly, Split, Sequential] {
            let full = Situation { cause: Cause::NoRoom, ..BATCH };
            assert_eq!(remedy(policy, full), Remedy::Evict);
            assert_eq!(remedy(policy, Situation { cached: 0, ..full }), Remedy::Preempt);
        }
        let last = Situation { cause: Cause::NoRoom, ..ALONE };
        assert_eq!(remedy(NativeOnly, last), Remedy::End);
        assert_eq!(remedy(Split, last), Remedy::Repeat);
        assert_eq!(remedy(Split, Situation { alone: 1, ..last }), Remedy::End);
    }

    #[test]
    fn a_batch_that_failed_comes_down_to_one() {
        assert_eq!(remedy(FallbackPolicy::NativeOnly, BATCH), Remedy::End);
        assert_eq!(remedy(FallbackPolicy::Split, BATCH), Remedy::Halve);
        assert_eq!(remedy(FallbackPolicy::Sequential, BATCH), Remedy::Singly);
        for policy in [FallbackPolicy::Split, FallbackPolicy::Sequential] {
            assert_eq!(remedy(policy, ALONE), Remedy::Repeat);
            assert_eq!(remedy(policy, Situation { alone: 1, ..ALONE }), Remedy::End);
        }
    }

    #[test]
    fn who_may_have_failed_for_others_is_tried_again() {
        let failed = Situation { alone: 1, ..ALONE };
        let doubtful = Situation { doubtful: true, ..failed };
        for policy in [FallbackPolicy::Split, FallbackPolicy::Sequential] {
            assert_eq!((remedy(policy, failed), remedy(policy, doubtful)), (Remedy::End, Remedy::Repeat));
        }
        assert_eq!(remedy(FallbackPolicy::NativeOnly, doubtful), Remedy::End);
    }

    /// Whatever happens, it comes to an end: each remedy leaves less to be tried.
    #[test]
    fn it_ends() {
        for policy in [FallbackPolicy::NativeOnly, FallbackPolicy::Split, FallbackPolicy::Sequential] {
            for cause in [Cause::NoRoom, Cause::Failure] {
                let mut work = vec![Situation { cause, ..BATCH }];
                let mut steps = 0;
                while let Some(now) = work.pop() {
                    steps += 1;
                    assert!(steps < 100);
                    match remedy(policy, now) {
                        Remedy::Evict => work.push(Situation { cached: now.cached - 1, ..now }),
                        Remedy::Preempt => {
                            work.push(Situation { others: now.others - 1, parts: (now.parts - 1).max(1), ..now });
                        }
                        Remedy::Halve => {
                            let half = now.parts / 2;
                            work.push(Situation { parts: half, ..now });
                            work.push(Situation { parts: now.parts - half, ..now });
                        }
                        Remedy::Singly => work.extend((0..now.parts).map(|_| Situation { parts: 1, ..now })),
                        Remedy::Repeat => work.push(Situation { alone: now.alone + 1, ..now }),
                        Remedy::End => {}
                    }
                }
            }
        }
    }
}
