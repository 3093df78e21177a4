//! Encoding where there is only decoding, and the other way round.

use batch_suite::prompt;
use fixtures::Family;
use llama_safe::{Context, Token};
use llama_sys::*;

use crate::child::wrong;
use crate::raw::{Arrays, context, context_with, decode, encoder, family, logits, text, tiny, wrong_if_different};
use crate::row::{Group, Outcome, Row, Safe};
use crate::safe::{Setup, params, told};

pub const ROWS: &[Row] = &[
    Row {
        group: Group::Routing,
        name: "encode_without_encoder",
        done: "llama_encode on a decoder, as a test of the wrapper did",
        functions: &["llama_encode", "llama_model_has_encoder"],
        operation: "the graph of a decoder asks for a memory context, and follows NULL",
        outcome: Outcome::Segfault { at: "llama-context.cpp:1542" },
        raw: encode_without_encoder,
        safe: Safe::Refused {
            error: "DecodeError::NoEncoder",
            on: Setup::Tiny,
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let mut batch = context.new_batch();
                batch.prompt(&sequence, &[Token(1), Token(2), Token(3)]).unwrap();
                told(context.encode(&mut batch).map(drop))
            },
        },
    },
    Row {
        group: Group::Routing,
        name: "encode_recurrent",
        done: "llama_encode on a recurrent model",
        functions: &["llama_encode", "llama_model_is_recurrent"],
        operation: "the graph asks for a memory context, and follows NULL",
        outcome: Outcome::Segfault { at: "llama-context.cpp:1542" },
        raw: encode_recurrent,
        safe: Safe::Refused {
            error: "DecodeError::NoEncoder",
            on: Setup::Of(Family::Mamba),
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let mut batch = context.new_batch();
                batch.prompt(&sequence, &prompt(1, 3)).unwrap();
                told(context.encode(&mut batch).map(drop))
            },
        },
    },
    Row {
        group: Group::Routing,
        name: "encode_hybrid",
        done: "llama_encode on a model of attention and state",
        functions: &["llama_encode", "llama_model_is_hybrid"],
        operation: "the graph asks for a memory context, and follows NULL",
        outcome: Outcome::Segfault { at: "llama-context.cpp:1542" },
        raw: encode_hybrid,
        safe: Safe::Refused {
            error: "DecodeError::NoEncoder",
            on: Setup::Of(Family::Hybrid),
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let mut batch = context.new_batch();
                batch.prompt(&sequence, &prompt(1, 3)).unwrap();
                told(context.encode(&mut batch).map(drop))
            },
        },
    },
    Row {
        group: Group::Routing,
        name: "decode_before_encode",
        done: "an encoder-decoder decodes, and nothing was encoded",
        functions: &["llama_decode", "llama_model_has_decoder", "llama_model_decoder_start_token"],
        operation: "attention to an encoder's output that is not there",
        outcome: Outcome::Assertion {
            at: "llama-graph.cpp:1102",
            says: "GGML_ASSERT(!cross->seq_ids_enc.empty() && \"llama_encode must be called first\") failed",
        },
        raw: decode_before_encode,
        safe: Safe::Refused {
            error: "DecodeError::NotEncoded { id: SeqId { slot: 0, generation: 0 } }",
            on: Setup::Of(Family::T5),
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let mut batch = context.new_batch();
                batch.prompt(&sequence, &prompt(1, 3)).unwrap();
                told(context.decode(&mut batch).map(drop))
            },
        },
    },
    Row {
        group: Group::Routing,
        name: "decode_of_another_text",
        done: "an encoder-decoder decodes sequence 1, and the last llama_encode held sequence 0 alone",
        functions: &["llama_decode", "llama_encode"],
        operation: "none: no text is in view, and numbers come out all the same",
        outcome: Outcome::Wrong { at: "llama-graph.cpp:1109" },
        raw: decode_of_another_text,
        safe: Safe::Refused {
            error: "DecodeError::NotEncoded { id: SeqId { slot: 1, generation: 0 } }",
            on: Setup::Of(Family::T5),
            attempt: |context| {
                let (one, other) = (context.new_sequence().unwrap(), context.new_sequence().unwrap());
                let mut batch = context.new_encoder_batch();
                batch.extend(&one, &prompt(1, 5)).unwrap();
                context.encode(&mut batch).unwrap();
                let mut batch = context.new_batch();
                batch.prompt(&other, &prompt(2, 2)).unwrap();
                told(context.decode(&mut batch).map(drop))
            },
        },
    },
    Row {
        group: Group::Routing,
        name: "decode_after_another_encode",
        done: "an encoder-decoder goes on with a sequence after another text was encoded in its place",
        functions: &["llama_decode", "llama_encode"],
        operation: "none: half of what is decoded looks at one text, half at the other",
        outcome: Outcome::Wrong { at: "llama-graph.cpp:1109" },
        raw: decode_after_another_encode,
        safe: Safe::Refused {
            error: "DecodeError::EncodedOtherwise { id: SeqId { slot: 0, generation: 0 }, length: 2 }",
            on: Setup::Of(Family::T5),
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let mut texts = context.new_encoder_batch();
                texts.extend(&sequence, &prompt(1, 5)).unwrap();
                context.encode(&mut texts).unwrap();
                let mut batch = context.new_batch();
                batch.prompt(&sequence, &prompt(3, 2)).unwrap();
                context.decode(&mut batch).unwrap();
                texts.extend(&sequence, &prompt(2, 5)).unwrap();
                told(context.encode(&mut texts).map(drop))
            },
        },
    },
    Row {
        group: Group::Routing,
        name: "decode_on_an_encoder",
        done: "llama_decode on an encoder",
        functions: &["llama_decode"],
        operation: "none: it encodes, and says so only in the log",
        outcome: Outcome::Wrong { at: "llama-context.cpp:1717" },
        raw: decode_on_an_encoder,
        safe: Safe::Refused {
            error: "DecodeError::NoDecoder",
            on: Setup::Encoder,
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                let mut batch = context.new_batch();
                batch.prompt(&sequence, &prompt(1, 3)).unwrap();
                told(context.decode(&mut batch).map(drop))
            },
        },
    },
    Row {
        group: Group::Routing,
        name: "more_than_a_micro_batch_encoded",
        done: "an encoder is given 8 tokens, and its micro-batch holds 4",
        functions: &["llama_encode", "llama_n_ubatch"],
        operation: "none: an encoder computes all tokens in one pass",
        outcome: Outcome::Assertion {
            at: "llama-context.cpp:1505",
            says: "GGML_ASSERT(cparams.n_ubatch >= n_tokens && \"encoder requires n_ubatch >= n_tokens\") failed",
        },
        raw: more_than_a_micro_batch_encoded,
        safe: Safe::Refused {
            error: "PushError::BatchFull { limit: 4, have: 0, adding: 8 }",
            on: Setup::Encoder,
            attempt: |context| {
                let params = params().micro_batch_tokens(4).embeddings(true);
                let mut context = Context::new(context.model(), &params).unwrap();
                let sequence = context.new_sequence().unwrap();
                told(context.new_batch().prompt(&sequence, &prompt(1, 8)))
            },
        },
    },
    Row {
        group: Group::Routing,
        name: "more_than_a_micro_batch_without_order",
        done: "attention without order is switched on, and 8 tokens are decoded in micro-batches of 4",
        functions: &["llama_decode", "llama_set_causal_attn", "llama_get_causal_attn"],
        operation: "none: without order all tokens are computed in one pass",
        outcome: Outcome::Assertion {
            at: "llama-context.cpp:1789",
            says: "GGML_ASSERT((cparams.causal_attn || cparams.n_ubatch >= n_tokens_all) && \
                   \"non-causal attention requires n_ubatch >= n_tokens\") failed",
        },
        raw: more_than_a_micro_batch_without_order,
        safe: Safe::Refused {
            error: "PushError::BatchFull { limit: 4, have: 0, adding: 8 }",
            on: Setup::Of(Family::Diffusion),
            attempt: |context| {
                let mut context = Context::new(context.model(), &params().micro_batch_tokens(4)).unwrap();
                let sequence = context.new_sequence().unwrap();
                told(context.new_batch().prompt(&sequence, &prompt(1, 8)))
            },
        },
    },
    Row {
        group: Group::Routing,
        name: "order_switched_off_between_decodes",
        done: "attention without order is switched on in the middle of a text",
        functions: &["llama_set_causal_attn", "llama_decode"],
        operation: "none: the second half is computed as no half of this text ever was",
        outcome: Outcome::Wrong { at: "llama-context.cpp:1261" },
        raw: order_switched_off_between_decodes,
        safe: Safe::Unwritable { file: "context.rs", line: "context.set_causal_attn(false)" },
    },
    Row {
        group: Group::Routing,
        name: "embeddings_encoded_of_another_width",
        done: "the encoder of an encoder-decoder is given embeddings of half its width",
        functions: &["llama_encode"],
        operation: "out-of-bounds read",
        outcome: Outcome::GuardPage { array: "embd", at: "llama-batch.cpp:1400" },
        raw: embeddings_encoded_of_another_width,
        safe: Safe::Refused {
            error: "PushError::EmbeddingWidth { .. }",
            on: Setup::Of(Family::T5),
            attempt: |context| {
                let sequence = context.new_sequence().unwrap();
                told(context.new_embedding_batch().push_embedding(&sequence, &[0.5; 8]))
            },
        },
    },
];

unsafe fn encode(model: *mut llama_model) {
    llama_encode(context(model), Arrays::new(0, 0, &[1, 2, 3]).batch());
}

unsafe fn encode_without_encoder() {
    encode(tiny());
}

unsafe fn encode_recurrent() {
    encode(family(Family::Mamba));
}

unsafe fn encode_hybrid() {
    encode(family(Family::Hybrid));
}

/// A context of the encoder-decoder, which wants unified KV.
unsafe fn t5() -> *mut llama_context {
    context_with(family(Family::T5), |params| params.kv_unified = true)
}

unsafe fn decode_before_encode() {
    decode(t5(), 0, 0, &[0, 3]);
}

unsafe fn decode_of_another_text() {
    let context = t5();
    llama_encode(context, Arrays::new(0, 0, &text(1, 5)).batch());
    decode(context, 1, 0, &text(2, 2));
    let got = logits(context, -1);
    llama_memory_clear(llama_get_memory(context), true);
    llama_encode(context, Arrays::new(1, 0, &text(1, 5)).batch());
    decode(context, 1, 0, &text(2, 2));
    wrong_if_different(&got, &logits(context, -1), "the logits are not those of a text in view");
}

unsafe fn decode_after_another_encode() {
    let context = t5();
    llama_encode(context, Arrays::new(0, 0, &text(1, 5)).batch());
    decode(context, 0, 0, &text(3, 2));
    // It wants positions that follow those of what is decoded.
    llama_encode(context, Arrays::new(0, 2, &text(2, 5)).batch());
    decode(context, 0, 2, &text(4, 1));
    let got = logits(context, -1);
    llama_memory_clear(llama_get_memory(context), true);
    decode(context, 0, 0, &text(3, 2));
    decode(context, 0, 2, &text(4, 1));
    wrong_if_different(&got, &logits(context, -1), "the logits are not those of the second text");
}

unsafe fn decode_on_an_encoder() {
    let context = context_with(encoder(), |params| params.embeddings = true);
    for _ in 0..2 {
        if llama_decode(context, Arrays::new(0, 0, &[3, 4, 5]).batch()) != 0 {
            return;
        }
    }
    wrong("llama_decode returns 0 for positions 0 to 2, twice: nothing is remembered");
}

unsafe fn more_than_a_micro_batch_encoded() {
    let context = context_with(encoder(), |params| {
        params.embeddings = true;
        params.n_ubatch = 4;
    });
    llama_encode(context, Arrays::new(0, 0, &text(1, 8)).batch());
}

unsafe fn more_than_a_micro_batch_without_order() {
    let context = context_with(tiny(), |params| params.n_ubatch = 4);
    llama_set_causal_attn(context, false);
    llama_decode(context, Arrays::new(0, 0, &text(1, 8)).batch());
}

unsafe fn order_switched_off_between_decodes() {
    let model = tiny();
    let context = context(model);
    decode(context, 0, 0, &text(1, 4));
    llama_set_causal_attn(context, false);
    let mut arrays = Arrays::new(0, 4, &text(2, 4));
    arrays.logits.fill(1);
    llama_decode(context, arrays.batch());
    let got = logits(context, 0);
    let want = crate::raw::alone(model, &[text(1, 4), text(2, 1)].concat());
    wrong_if_different(&got, &want, "the logits of a token depend on the tokens after it: they differ");
}

unsafe fn embeddings_encoded_of_another_width() {
    let context = t5();
    let mut batch = Arrays::new(0, 0, &[3]).leak();
    batch.token = std::ptr::null_mut();
    batch.embd = crate::raw::guarded("embd", &[0.5_f32; 8]);
    llama_encode(context, batch);
}
