//! Where llama.cpp itself is wrong: architectures whose batches it computes as something else than the same tokens one at a
//! time. A test compares every architecture and fails when it finds others than these, or finds one of these right.
#![forbid(unsafe_code)]

use crate::limits::{Fallback, Way};

/// An architecture with a fault.
#[derive(Debug)]
pub(crate) struct Quirk {
    architecture: &'static str,
    /// What llama.cpp does wrong.
    wrong: &'static str,
    remedy: Remedy,
}

/// What is done about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Remedy {
    /// A slower way that is right.
    Always(Way),
    /// The same, in contexts of more than one sequence.
    Several(Way),
    /// Micro-batches are a multiple of the sequences.
    Multiple,
    /// Contexts of more than one sequence are refused.
    OneSequence,
    /// It is used as the encoder that it is.
    Encoder,
    /// Its sequences cannot be saved.
    NoState,
}

/// Each with the places of the pinned source.
const QUIRKS: &[Quirk] = &[
    Quirk {
        // models/cogvlm.cpp:150: no `build_inp_out_ids`; llama-context.cpp copies the first rows for those asked for.
        architecture: "cogvlm",
        wrong: "its graph gives the logits of the first rows for those of the rows that were asked for",
        remedy: Remedy::Always(Way::AllOutputs),
    },
    Quirk {
        // models/chameleon.cpp:198: `ggml_set_1d` writes to the first row alone, and asserts that there is one.
        architecture: "chameleon",
        wrong: "of a pass, only the first output has the tokens of pictures suppressed, and a pass without output aborts",
        remedy: Remedy::Always(Way::OneTokenShared),
    },
    Quirk {
        // models/plamo2.cpp:296 swaps sequences and tokens, :398 multiplies the place of the state by the sequences.
        architecture: "plamo2",
        wrong: "a pass of several sequences mixes their tokens, and keeps their states in the wrong places",
        // However small the micro-batch, a pass has a token of each sequence.
        remedy: Remedy::OneSequence,
    },
    Quirk {
        // models/arwkv7.cpp:149 passes a strided view, which llama-graph.cpp:3714 reads as if it were dense.
        architecture: "arwkv7",
        wrong: "after a pass of several sequences, it remembers a wrong last token for all but the first",
        remedy: Remedy::Several(Way::OneToken),
    },
    Quirk {
        // models/rwkv6qwen2.cpp, as above.
        architecture: "rwkv6qwen2",
        wrong: "after a pass of several sequences, it remembers a wrong last token for all but the first",
        remedy: Remedy::Several(Way::OneToken),
    },
    Quirk {
        // For these two, llama-context.cpp:724 reserves a graph of one sequence on a memory of many streams; attention divides its
        // rows by the streams (llama-graph.cpp:2705), and the rest is missing where the residual is added.
        architecture: "kimi-linear",
        wrong: "making a context aborts where each sequence has its cells and the micro-batch is no multiple of them",
        remedy: Remedy::Multiple,
    },
    Quirk {
        architecture: "minimax-01",
        wrong: "making a context aborts where each sequence has its cells and the micro-batch is no multiple of them",
        remedy: Remedy::Multiple,
    },
    Quirk {
        // models/wavtokenizer-dec.cpp:117: convolutions and attention without a mask, over all rows of a pass.
        architecture: "wavtokenizer-dec",
        wrong: "all rows of a pass are one text to it, whatever sequences they are of",
        remedy: Remedy::OneSequence,
    },
    Quirk {
        // models/llama.cpp:113 and :238: attention without the cache, and no output head.
        architecture: "llama-embed",
        wrong: "it decodes without looking at its memory, and leaves the logits unwritten",
        remedy: Remedy::Encoder,
    },
    Quirk {
        // llama-memory-hybrid-idx.cpp:272: from the second batch after it on, `llama_state_seq_set_data_ext` has changed the logits,
        // of a single sequence, too; the other architecture with such an index goes on as before. From reading: its index has
        // cells without second and third position in a state (llama-kv-cache.cpp:1846, the index's own rope type is none), with
        // which all pooled keys are rotated anew after a restore (llama-memory-hybrid-idx.cpp:293 and :925).
        architecture: "qwen4exp",
        wrong: "it attends to other keys after a state was restored",
        remedy: Remedy::NoState,
    },
];

/// What is known to be wrong with an architecture.
pub(crate) fn of(architecture: &str) -> Option<&'static Quirk> {
    QUIRKS.iter().find(|quirk| quirk.architecture == architecture)
}

/// The architectures whose batches llama.cpp computes as something else than the same tokens one at a time, and what is wrong
/// with each.
///
/// Contexts of these models are computed in a slower way that is right ([`Limits::fallback`](crate::Limits::fallback)), or
/// what goes wrong is refused.
///
/// ```
/// assert!(llama_safe::known_faults().any(|(architecture, _)| architecture == "cogvlm"));
/// ```
pub fn known_faults() -> impl Iterator<Item = (&'static str, &'static str)> {
    QUIRKS.iter().map(|quirk| (quirk.architecture, quirk.wrong))
}

impl Quirk {
    /// What llama.cpp does wrong.
    pub(crate) fn wrong(&self) -> &'static str {
        self.wrong
    }

    /// The slower way for a context of so many sequences.
    pub(crate) fn fallback(&self, sequences: u32) -> Option<Fallback> {
        let way = match self.remedy {
            Remedy::Always(way) => way,
            Remedy::Several(way) if sequences > 1 => way,
            _ => return None,
        };
        Some(Fallback { wrong: self.wrong, way })
    }

    /// The micro-batch that a context of so many sequences gets, of one that was asked for.
    pub(crate) fn micro_batch_tokens(&self, asked: u32, sequences: u32) -> u32 {
        match self.remedy {
            Remedy::Multiple => (asked - asked % sequences).max(sequences),
            _ if self.fallback(sequences).is_some_and(|fallback| fallback.is_one_token_at_a_time()) => 1,
            _ => asked,
        }
    }

    /// Whether sequences must share their cells.
    pub(crate) fn is_unified(&self) -> bool {
        self.remedy == Remedy::Always(Way::OneTokenShared)
    }

    /// Whether a context of so many sequences is refused.
    pub(crate) fn refuses(&self, sequences: u32) -> bool {
        self.remedy == Remedy::OneSequence && sequences > 1
    }

    /// Whether it is an encoder, whatever llama.cpp says.
    pub(crate) fn is_encoder(&self) -> bool {
        self.remedy == Remedy::Encoder
    }

    /// Whether its sequences can be saved and restored.
    pub(crate) fn has_states(&self) -> bool {
        self.remedy != Remedy::NoState
    }
}

/// Whether llama.cpp builds the architecture's graph of embeddings as well as of tokens. It asserts it where it does not
/// (models/granite-switch.cpp:231); what else asserts it builds drafts.
pub(crate) fn takes_embeddings(architecture: &str) -> bool {
    architecture != "graniteswitch"
}

/// Why llama.cpp would end the process with a model of these tensors and numbers (of the architecture's own keys); `None` where it
/// would not.
pub(crate) fn unsound<'a>(
    architecture: &str,
    mut tensors: impl Iterator<Item = &'a str>,
    number: impl Fn(&str) -> Option<u64>,
) -> Option<&'static str> {
    match architecture {
        // The graph of RWKV 6 takes this tensor as a sign for norms that this architecture has not, and follows a null pointer
        // (models/rwkv6-base.cpp:52 and :158).
        "rwkv6qwen2" => tensors
            .any(|name| name.contains("time_mix_first"))
            .then_some("it has the tensor time_mix_first, with which llama.cpp takes it for another"),
        "deepseek4" => {
            let (keys, index) = (number("attention.key_length"), number("attention.indexer.key_length")?);
            if keys == Some(index) {
                // Meant for the cache of the index, a rotation is then made for a cache without layers, too: its size is
                // doubled until it is 0, and divided by (llama-kv-cache.cpp:345).
                Some("its keys are as long as those of its index, and llama.cpp then divides by zero")
            } else if !index.is_multiple_of(ROTATION) {
                Some("the keys of its index are no multiple of the 64 numbers that llama.cpp rotates together")
            } else {
                None
            }
        }
        _ => None,
    }
}

/// The least numbers that are rotated together (llama-kv-cache.cpp:341).
const ROTATION: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stands_once() {
        for (name, _) in known_faults() {
            assert_eq!(known_faults().filter(|(other, _)| *other == name).count(), 1, "{name}");
        }
        assert!(of("llama").is_none());
    }

    #[test]
    fn some_are_only_wrong_with_several_sequences() {
        let rwkv = of("arwkv7").unwrap();
        assert_eq!(rwkv.fallback(1), None);
        assert!(rwkv.fallback(2).unwrap().is_one_token_at_a_time());
        let cogvlm = of("cogvlm").unwrap().fallback(1).unwrap();
        assert!(!cogvlm.is_one_token_at_a_time());
        assert!(cogvlm.to_string().ends_with("instead, every row gives an output, asked for or not"));
        let wav = of("wavtokenizer-dec").unwrap();
        assert!(wav.refuses(2) && !wav.refuses(1) && wav.fallback(2).is_none());
    }

    #[test]
    fn micro_batches_become_what_llama_cpp_can_do() {
        let kimi = of("kimi-linear").unwrap();
        assert_eq!([128, 126, 2].map(|asked| kimi.micro_batch_tokens(asked, 3)), [126, 126, 3]);
        assert_eq!(of("chameleon").unwrap().micro_batch_tokens(128, 3), 1);
        assert_eq!(of("cogvlm").unwrap().micro_batch_tokens(128, 3), 128);
    }

    #[test]
    fn a_model_with_a_tensor_too_many_is_unsound() {
        let unsound = |architecture, tensor| unsound(architecture, [tensor].into_iter(), |_| None).is_some();
        assert!(unsound("rwkv6qwen2", "blk.0.time_mix_first.weight"));
        assert!(!unsound("rwkv6qwen2", "blk.0.time_mix_key.weight"));
        assert!(!unsound("rwkv6", "blk.0.time_mix_first.weight"));
    }

    #[test]
    fn an_index_must_be_one_that_can_be_rotated() {
        let unsound = |keys, index| {
            let number = |key: &str| if key.contains("indexer") { index } else { keys };
            unsound("deepseek4", std::iter::empty(), number).is_some()
        };
        assert!(unsound(Some(64), Some(64)) && unsound(Some(32), Some(96)));
        assert!(!unsound(Some(512), Some(128)) && !unsound(Some(64), None) && !unsound(None, Some(128)));
    }
}
