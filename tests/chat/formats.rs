//! Templates of our own for formats that llama.cpp knows by name, each to write what it writes.

/// A template in which every message is `begin role middle content end`.
macro_rules! turns {
    ($name:literal, $start:literal, $begin:literal, $middle:literal, $content:literal, $end:literal, $prompt:literal) => {
        (
            $name,
            concat!(
                "{{- '",
                $start,
                "' -}}\n{%- for message in messages -%}\n{{- '",
                $begin,
                "' + message.role + '",
                $middle,
                "' + ",
                $content,
                " + '",
                $end,
                "' -}}\n{%- endfor -%}\n{%- if add_generation_prompt -%}{{- '",
                $prompt,
                "' -}}{%- endif -%}"
            ),
        )
    };
}

/// A template with a line for each role.
macro_rules! roles {
    ($name:literal, $start:literal, $system:literal, $user:literal, $assistant:literal, $prompt:literal) => {
        (
            $name,
            concat!(
                "{{- '",
                $start,
                "' -}}{%- for message in messages -%}{%- set content = message['content'] -%}\n",
                "{%- if message['role'] == 'system' -%}{{- ",
                $system,
                " -}}\n",
                "{%- elif message['role'] == 'user' -%}{{- ",
                $user,
                " -}}\n",
                "{%- else -%}{{- ",
                $assistant,
                " -}}{%- endif -%}\n",
                "{%- endfor -%}{%- if add_generation_prompt -%}{{- '",
                $prompt,
                "' -}}{%- endif -%}"
            ),
        )
    };
}

/// Mistral's, in which a system message stands before the user's within the brackets.
macro_rules! instructions {
    ($name:literal, $open:literal, $close:literal, $answer:literal) => {
        (
            $name,
            concat!(
                "{%- set ns = namespace(inside=false) -%}\n{%- for message in messages -%}\n",
                "{%- if not ns.inside -%}{{- '",
                $open,
                "' -}}{%- set ns.inside = true -%}{%- endif -%}\n",
                "{%- if message.role == 'system' -%}{{- message.content + '\\n\\n' -}}\n",
                "{%- elif message.role == 'user' -%}{{- message.content + '",
                $close,
                "' -}}\n",
                "{%- else -%}{{- ",
                $answer,
                " + '</s>' -}}{%- set ns.inside = false -%}{%- endif -%}\n{%- endfor -%}"
            ),
        )
    };
}

/// Llama 2's, with what stands around a system message, and before a later instruction.
macro_rules! llama2 {
    ($name:literal, $system:literal, $again:literal, $content:literal) => {
        (
            $name,
            concat!(
                "[INST] {% set ns = namespace(inside=true) %}{% for m in messages %}{% set content = ",
                $content,
                " %}",
                "{% if not ns.inside %}{{ '",
                $again,
                "' }}{% set ns.inside = true %}{% endif %}",
                "{% if m.role == 'system' %}{{ ",
                $system,
                " }}{% elif m.role == 'user' %}{{ content ~ ' [/INST]' }}",
                "{% else %}{{ content ~ '</s>' }}{% set ns.inside = false %}{% endif %}{% endfor %}"
            ),
        )
    };
}

/// Names of formats, and templates for them.
#[rustfmt::skip]
pub const FORMATS: &[(&str, &str)] = &[
    turns!("chatml", "", "<|im_start|>", "\\n", "message.content", "<|im_end|>\\n", "<|im_start|>assistant\\n"),
    llama2!("llama2", "content ~ '\\n'", "[INST] ", "m.content"),
    llama2!("llama2-sys", "'<<SYS>>\\n' ~ content ~ '\\n<</SYS>>\\n\\n'", "[INST] ", "m.content"),
    llama2!("llama2-sys-bos", "'<<SYS>>\\n' ~ content ~ '\\n<</SYS>>\\n\\n'", "<s>[INST] ", "m.content"),
    llama2!("llama2-sys-strip", "'<<SYS>>\\n' ~ content ~ '\\n<</SYS>>\\n\\n'", "[INST] ", "m.content.strip()"),
    instructions!("mistral-v1", " [INST] ", " [/INST]", "' ' + message.content"),
    instructions!("mistral-v3", "[INST] ", "[/INST]", "' ' + message.content | trim"),
    instructions!("mistral-v3-tekken", "[INST]", "[/INST]", "message.content"),
    roles!("mistral-v7", "", "'[SYSTEM_PROMPT] ' + content + '[/SYSTEM_PROMPT]'", "'[INST] ' + content + '[/INST]'", "' ' + content + '</s>'", ""),
    roles!("mistral-v7-tekken", "", "'[SYSTEM_PROMPT]' + content + '[/SYSTEM_PROMPT]'", "'[INST]' + content + '[/INST]'", "content + '</s>'", ""),
    turns!("phi3", "", "<|", "|>\\n", "message.content", "<|end|>\\n", "<|assistant|>\\n"),
    turns!("phi4", "", "<|im_start|>", "<|im_sep|>", "message.content", "<|im_end|>", "<|im_start|>assistant<|im_sep|>"),
    turns!("falcon3", "", "<|", "|>\\n", "message.content", "\\n", "<|assistant|>\\n"),
    turns!("zephyr", "", "<|", "|>\\n", "message.content", "<|endoftext|>\\n", "<|assistant|>\\n"),
    ("monarch", "{% for m in messages %}{{ ('' if loop.first else '<s>') ~ m.role ~ '\\n' ~ m.content ~ '</s>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<s>assistant\\n' }}{% endif %}"),
    ("gemma", "\
{%- set ns = namespace(system='') -%}
{%- for message in messages -%}
    {%- if message['role'] == 'system' -%}
        {%- set ns.system = ns.system + message['content'] | trim -%}
        {%- continue -%}
    {%- endif -%}
    {{- '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' -}}
    {%- if ns.system and message['role'] != 'assistant' -%}
        {{- ns.system + '\\n\\n' -}}
        {%- set ns.system = '' -%}
    {%- endif -%}
    {{- message['content'] | trim + '<end_of_turn>\\n' -}}
{%- endfor -%}
{{- '<start_of_turn>model\\n' if add_generation_prompt -}}"),
    ("orion", "\
{% set ns = namespace(system='') %}
{% for m in messages %}
{% if m.role == 'system' %}
{% set ns.system = ns.system ~ m.content %}
{% elif m.role == 'user' %}
{{- 'Human: ' ~ (ns.system ~ '\\n\\n' if ns.system else '') ~ m.content ~ '\\n\\nAssistant: </s>' -}}
{% set ns.system = '' %}
{% else %}
{{- m.content ~ '</s>' -}}
{% endif %}
{% endfor %}"),
    roles!("openchat", "", "content + '<|end_of_turn|>'", "'GPT4 Correct ' + message['role'] | capitalize + ': ' + content + '<|end_of_turn|>'", "'GPT4 Correct ' + message['role'].title() + ': ' + content + '<|end_of_turn|>'", "GPT4 Correct Assistant:"),
    roles!("vicuna", "", "content + '\\n\\n'", "'USER: ' + content + '\\n'", "'ASSISTANT: ' + content + '</s>\\n'", "ASSISTANT:"),
    roles!("vicuna-orca", "", "'SYSTEM: ' + content + '\\n'", "'USER: ' + content + '\\n'", "'ASSISTANT: ' + content + '</s>\\n'", "ASSISTANT:"),
    roles!("deepseek", "", "content", "'### Instruction:\\n' + content + '\\n'", "'### Response:\\n' + content + '\\n<|EOT|>\\n'", "### Response:\\n"),
    roles!("deepseek2", "", "content + '\\n\\n'", "'User: ' + content + '\\n\\n'", "'Assistant: ' + content + '<｜end▁of▁sentence｜>'", "Assistant:"),
    roles!("deepseek3", "", "content + '\\n\\n'", "'<｜User｜>' + content", "'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'", "<｜Assistant｜>"),
    roles!("command-r", "", "'<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + content | trim + '<|END_OF_TURN_TOKEN|>'", "'<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + content | trim + '<|END_OF_TURN_TOKEN|>'", "'<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' + content | trim + '<|END_OF_TURN_TOKEN|>'", "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"),
    turns!("llama3", "", "<|start_header_id|>", "<|end_header_id|>\\n\\n", "message.content | trim", "<|eot_id|>", "<|start_header_id|>assistant<|end_header_id|>\\n\\n"),
    turns!("llama4", "", "<|header_start|>", "<|header_end|>\\n\\n", "message.content.strip()", "<|eot|>", "<|header_start|>assistant<|header_end|>\\n\\n"),
    turns!("chatglm3", "[gMASK]sop", "<|", "|>\\n ", "message.content", "", "<|assistant|>"),
    turns!("chatglm4", "[gMASK]<sop>", "<|", "|>\\n", "message.content", "", "<|assistant|>\\n"),
    turns!("glmedge", "", "<|", "|>\\n", "message.content", "", "<|assistant|>"),
    roles!("minicpm", "", "content | trim", "'<用户>' + content | trim + '<AI>'", "content | trim", ""),
    roles!("exaone3", "", "'[|system|]' + content | trim + '[|endofturn|]\\n'", "'[|user|]' + content | trim + '\\n'", "'[|assistant|]' + content | trim + '[|endofturn|]\\n'", "[|assistant|]"),
    ("rwkv-world", "{% for m in messages %}{{ m.role.replace('system', 'System').replace('user', 'User').replace('assistant', 'Assistant') ~ ': ' ~ m.content | trim ~ '\\n\\n' }}{% if loop.last and m.role == 'user' %}Assistant:{% endif %}{% endfor %}"),
    turns!("granite", "", "<|start_of_role|>", "<|end_of_role|>", "message.content", "<|end_of_text|>\\n", "<|start_of_role|>assistant<|end_of_role|>"),
    turns!("megrez", "", "<|role_start|>", "<|role_end|>", "message.content", "<|turn_end|>", "<|role_start|>assistant<|role_end|>"),
    ("bailing", "{% for m in messages %}<role>{{ 'HUMAN' if m.role == 'user' else m.role | upper }}</role>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<role>ASSISTANT</role>{% endif %}"),
    roles!("smolvlm", "<|im_start|>", "content + '\\n\\n'", "'User: ' + content + '<end_of_utterance>\\n'", "'Assistant: ' + content + '<end_of_utterance>\\n'", "Assistant:"),
    ("gpt-oss", "{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}{{ '<|return|>' if m.role == 'assistant' else '<|end|>' }}{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"),
    roles!("kimi-k2", "", "'<|im_system|>system<|im_middle|>' + content + '<|im_end|>'", "'<|im_user|>user<|im_middle|>' + content + '<|im_end|>'", "'<|im_assistant|>assistant<|im_middle|>' + content + '<|im_end|>'", "<|im_assistant|>assistant<|im_middle|>"),
    turns!("seed_oss", "", "<seed:bos>", "\\n", "(message.content | trim if message.role == 'assistant' else message.content)", "<seed:eos>", "<seed:bos>assistant\\n"),
    roles!("grok-2", "", "'System: ' + content | trim + '<|separator|>\\n\\n'", "'Human: ' + content | trim + '<|separator|>\\n\\n'", "'Assistant: ' + content + '<|separator|>\\n\\n'", "Assistant:"),
    turns!("solar-open", "", "<|begin|>", "<|content|>", "message.content", "<|end|>", "<|begin|>assistant"),
];
