//! Vocabularies without a model: SentencePiece with byte fallback.

use std::sync::OnceLock;

use fixtures::gguf::Gguf;
use llama_safe::{Model, ModelParams, VocabKind};

/// What `enum llama_token_type` calls them.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const BYTE: i32 = 6;

/// Words, parts of words and marks; some are the character of a byte token, some are twice the same text.
const PIECES: &str = "a b c d e f g h x y z A O N K Q R 0 1 2 3 4 5 6 7 8 9 ( ) [ ] { } , : . + - * / = \" \\ # < > s r u n t l \
    ▁ ▁▁ ▁the ▁cat th he the an and ▁and true false null tr ue \": ▁\" \", }, ]} [] {} \"\" 10 12 99 00 ▁1 ▁2 -O O-O ▁O-O Nf3 e4 \
    ▁e4 xd ).( )) (( ▁- é è ê ▁é 日 本 日本 🙂 ▁🙂 ñ <tool>";

/// The file, its tensors left out.
pub fn sentence_piece_file() -> Vec<u8> {
    let mut tokens = vec!["<unk>".to_owned(), "<s>".to_owned(), "</s>".to_owned()];
    let mut kinds = vec![UNKNOWN, CONTROL, CONTROL];
    for byte in 0..=255u8 {
        tokens.push(format!("<0x{byte:02X}>"));
        kinds.push(BYTE);
    }
    for piece in PIECES.split_whitespace() {
        tokens.push(piece.to_owned());
        kinds.push(if piece == "<tool>" { USER_DEFINED } else { NORMAL });
    }
    tokens.push("\n".to_owned());
    kinds.push(NORMAL);
    let mut gguf = Gguf::default();
    gguf.set("general.architecture", "llama");
    for (key, number) in
        [("context_length", 64u32), ("embedding_length", 32), ("block_count", 1), ("feed_forward_length", 32)]
    {
        gguf.set(format!("llama.{key}"), number);
    }
    gguf.set("llama.attention.head_count", 1u32);
    gguf.set("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
    gguf.set("tokenizer.ggml.model", "llama");
    gguf.set("tokenizer.ggml.tokens", tokens);
    gguf.set("tokenizer.ggml.token_type", kinds);
    gguf.set("tokenizer.ggml.unknown_token_id", 0u32);
    gguf.set("tokenizer.ggml.bos_token_id", 1u32);
    gguf.set("tokenizer.ggml.eos_token_id", 2u32);
    // llama.cpp wants the metadata to fill whole units where no tensor follows: as long as it can be without another one.
    let described = |length: usize| {
        let mut gguf = gguf.clone();
        gguf.set("general.description", "-".repeat(length).as_str());
        gguf.header()
    };
    let length = (0..).find(|length| described(length + 1).len() > described(*length).len());
    described(length.unwrap_or_default())
}

pub fn sentence_piece() -> Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL
        .get_or_init(|| {
            let params = ModelParams::default().vocab_only(true);
            let model = Model::from_bytes(&sentence_piece_file(), &params).expect("a vocabulary");
            assert_eq!(model.vocab().kind(), VocabKind::SentencePiece);
            model
        })
        .clone()
}
