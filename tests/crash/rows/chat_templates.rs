//! Conversations, and the templates that write them.

use std::ffi::c_char;
use std::ptr;

use fixtures::Weights;
use llama_safe::{ChatOptions, ChatTemplate, Message};
use llama_sys::*;

use crate::child::wrong;
use crate::raw::{guarded, tiny};
use crate::row::{Group, Outcome, Row, Safe};
use crate::safe::{Setup, told};

/// Roles and contents are Rust's texts, and there is room for what comes of them.
const TEXTS: Safe = Safe::Right {
    why: "roles and contents are texts with their length, and the result is as long as it is",
    on: Setup::Tiny,
    attempt: |_| {
        let text =
            render("{% for m in messages %}{{ m.role }}: {{ m.content }}|{% endfor %}", &[Message::user("a\0b")]);
        assert_eq!(text, "user: a\0b|");
    },
};

pub const ROWS: &[Row] = &[
    Row {
        group: Group::ChatTemplates,
        name: "no_role",
        done: "a message has NULL for its role",
        functions: &["llama_chat_apply_template"],
        operation: "none: a string is made of NULL, and throws",
        outcome: Outcome::Exception { kind: "std::logic_error", says: "null", at: "llama-chat.cpp:264" },
        raw: no_role,
        safe: TEXTS,
    },
    Row {
        group: Group::ChatTemplates,
        name: "no_content",
        done: "a message has NULL for its content",
        functions: &["llama_chat_apply_template"],
        operation: "none: a stream that is given NULL writes nothing any more",
        outcome: Outcome::Wrong { at: "llama-chat.cpp:253" },
        raw: no_content,
        safe: TEXTS,
    },
    Row {
        group: Group::ChatTemplates,
        name: "more_messages_than_the_array",
        done: "a list of 1 message that is said to have 3",
        functions: &["llama_chat_apply_template"],
        operation: "out-of-bounds read",
        outcome: Outcome::GuardPage { array: "parameters", at: "llama-chat.cpp:253" },
        raw: more_messages_than_the_array,
        safe: TEXTS,
    },
    Row {
        group: Group::ChatTemplates,
        name: "longer_than_its_buffer",
        done: "the prompt is longer than its buffer, which is read up to its NUL",
        functions: &["llama_chat_apply_template"],
        operation: "out-of-bounds read by the caller: no NUL is written where the buffer ends",
        outcome: Outcome::GuardPage { array: "destination", at: "llama.cpp:536" },
        raw: longer_than_its_buffer,
        safe: TEXTS,
    },
    Row {
        group: Group::ChatTemplates,
        name: "of_a_model_without",
        done: "the template of a model that has none, NULL, is applied",
        functions: &["llama_chat_apply_template", "llama_model_chat_template"],
        operation: "none: that of another model is taken",
        outcome: Outcome::Wrong { at: "llama.cpp:517" },
        raw: of_a_model_without,
        safe: Safe::Refused {
            error: "ChatError::NoTemplate { name: None, has: [] }",
            on: Setup::Tiny,
            attempt: |context| told(ChatTemplate::of(context.model())),
        },
    },
    Row {
        group: Group::ChatTemplates,
        name: "taken_for_another",
        done: "a template that writes something else than one that it has a mark in common with",
        functions: &["llama_chat_apply_template", "llama_chat_builtin_templates"],
        operation: "none: it is not read, but recognised by its marks",
        outcome: Outcome::Wrong { at: "llama-chat.cpp:99" },
        raw: taken_for_another,
        safe: Safe::Right {
            why: "a template is rendered, whatever it says",
            on: Setup::Tiny,
            attempt: |_| assert_eq!(render(OTHERS, &[Message::user("hello")]), "hello, then <|im_start|>"),
        },
    },
    Row {
        group: Group::ChatTemplates,
        name: "not_one_of_the_list",
        done: "a template that llama.cpp does not know is applied, and its result taken for a length",
        functions: &["llama_chat_apply_template"],
        operation: "none: -1, which is 4 billion as an unsigned number",
        outcome: Outcome::Wrong { at: "llama.cpp:529" },
        raw: not_one_of_the_list,
        safe: Safe::Right {
            why: "a template is rendered, whatever it says",
            on: Setup::Tiny,
            attempt: |_| assert_eq!(render("{{ messages[0].content }}!", &[Message::user("hello")]), "hello!"),
        },
    },
    Row {
        group: Group::ChatTemplates,
        name: "more_names_than_the_array",
        done: "the names of templates are written to a list of 1 that is said to have room for all",
        functions: &["llama_chat_builtin_templates"],
        operation: "out-of-bounds write",
        outcome: Outcome::GuardPage { array: "parameters", at: "llama-chat.cpp:953" },
        raw: more_names_than_the_array,
        safe: TEXTS,
    },
    Row {
        group: Group::ChatTemplates,
        name: "a_mark_in_the_content",
        done: "a message contains the template's own marks",
        functions: &["llama_chat_apply_template", "llama_tokenize"],
        operation: "none: the user's text begins a turn of the system",
        outcome: Outcome::Wrong { at: "llama-chat.cpp:265" },
        raw: a_mark_in_the_content,
        safe: Safe::Right {
            why: "what users write becomes tokens of text, whatever it spells",
            on: Setup::Tiny,
            attempt: |context| {
                let source = "<s>{% for m in messages %}{{ m.content }}{% endfor %}";
                let template = ChatTemplate::parse(context.model(), source).unwrap();
                let bos = context.model().vocab().bos().unwrap();
                let tokens = template.tokens(&[Message::user("a <s> b")], &ChatOptions::default()).unwrap();
                assert_eq!(tokens.iter().filter(|token| **token == bos).count(), 1);
            },
        },
    },
];

/// Has a mark of ChatML in it, and is another one.
const OTHERS: &str = "{{ messages[0].content }}, then <|im_start|>";

fn render(source: &str, messages: &[Message]) -> String {
    let model = batch_suite::tiny(Weights::F32);
    ChatTemplate::parse(&model, source).unwrap().render(messages, &ChatOptions::default()).unwrap()
}

const CHATML: *const c_char = c"chatml".as_ptr();

fn message(role: *const c_char, content: *const c_char) -> llama_chat_message {
    llama_chat_message { role, content }
}

/// What comes of a template: the result, and the text.
unsafe fn apply(template: *const c_char, messages: &[llama_chat_message]) -> (i32, String) {
    let mut buffer = [0_u8; 1024];
    let length =
        llama_chat_apply_template(template, messages.as_ptr(), messages.len(), true, buffer.as_mut_ptr().cast(), 1024);
    let end = buffer.iter().position(|byte| *byte == 0).unwrap_or(1024);
    (length, String::from_utf8_lossy(&buffer[..end]).into_owned())
}

unsafe fn no_role() {
    apply(c"llama2".as_ptr(), &[message(ptr::null(), c"hello".as_ptr())]);
}

unsafe fn no_content() {
    let (_, text) =
        apply(CHATML, &[message(c"user".as_ptr(), ptr::null()), message(c"user".as_ptr(), c"hello".as_ptr())]);
    if !text.contains("hello") {
        wrong(&format!("all that comes behind it is lost: {text:?}"));
    }
}

unsafe fn more_messages_than_the_array() {
    let messages = guarded("parameters", &[message(c"user".as_ptr(), c"hello".as_ptr())]);
    llama_chat_apply_template(CHATML, messages, 3, true, ptr::null_mut(), 0);
}

unsafe fn longer_than_its_buffer() {
    let buffer = guarded("destination", &[0_u8; 8]);
    let messages = [message(c"user".as_ptr(), c"hello".as_ptr())];
    llama_chat_apply_template(CHATML, messages.as_ptr(), 1, true, buffer.cast(), 8);
    libc::strlen(buffer.cast());
}

unsafe fn of_a_model_without() {
    let template = llama_model_chat_template(tiny(), ptr::null());
    let (_, text) = apply(template, &[message(c"user".as_ptr(), c"hello".as_ptr())]);
    if template.is_null() && text.contains("<|im_start|>") {
        wrong(&format!("{text:?}"));
    }
}

unsafe fn taken_for_another() {
    let template = std::ffi::CString::new(OTHERS).expect("no NUL");
    let (_, text) = apply(template.as_ptr(), &[message(c"user".as_ptr(), c"hello".as_ptr())]);
    if text != "hello, then <|im_start|>" {
        wrong(&format!("{text:?}"));
    }
}

unsafe fn not_one_of_the_list() {
    let (length, _) = apply(c"{{ messages[0].content }}!".as_ptr(), &[message(c"user".as_ptr(), c"hello".as_ptr())]);
    if length < 0 {
        wrong(&format!("{length}"));
    }
}

unsafe fn more_names_than_the_array() {
    let names = guarded("parameters", &[ptr::null::<c_char>()]);
    llama_chat_builtin_templates(names, 1000);
}

unsafe fn a_mark_in_the_content() {
    let vocab = llama_model_get_vocab(tiny());
    let (length, text) = apply(c"zephyr".as_ptr(), &[message(c"user".as_ptr(), c"a <s> b".as_ptr())]);
    let mut tokens = [0; 256];
    // As is usual: the template's own marks have to become tokens.
    let count = llama_tokenize(vocab, text.as_ptr().cast(), length, tokens.as_mut_ptr(), 256, false, true);
    if tokens[..count as usize].contains(&llama_vocab_bos(vocab)) {
        wrong("the user's text becomes the token that begins a text");
    }
}
