//! Mutation number `n` of a file: the same for the same number.

use crate::document::{BOOL, Document, F32, I32, LIST, TEXT, U32, Value, size, text, texts};
use crate::pools;

/// A small generator (SplitMix64): what matters is that a number gives the same mutation on every machine.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, count: usize) -> usize {
        (self.next() % count.max(1) as u64) as usize
    }

    pub fn of<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    fn word(&mut self, pool: &'static str) -> &'static str {
        let count = pool.split_whitespace().count();
        pool.split_whitespace().nth(self.below(count)).unwrap()
    }
}

/// The mutated file, and what was done.
pub fn mutate(base: &Document, random: &mut Random) -> (Vec<u8>, String) {
    let mut document = base.clone();
    let mut done = Vec::new();
    // Now and then several at once, which get past checks that one alone does not.
    let count = [1, 1, 1, 2, 2, 3, 5][random.below(7)];
    for _ in 0..count {
        done.push(structured(&mut document, random));
    }
    let mut bytes = document.to_bytes();
    if random.below(5) == 0 {
        let header = document.header().len();
        done.push(unstructured(&mut bytes, header, random));
    }
    (bytes, done.join("; "))
}

fn structured(document: &mut Document, random: &mut Random) -> String {
    match random.below(20) {
        0..6 => scalar(document, random),
        6..9 => list(document, random),
        9..12 => add(document, random),
        12 => {
            let index = random.below(document.pairs.len());
            if document.pairs.is_empty() {
                return "nothing".to_owned();
            }
            let (key, _) = document.pairs.remove(index);
            format!("drop {}", show(&key))
        }
        13 => retype(document, random),
        14 => architecture(document, random),
        15 => header(document, random),
        _ => tensor(document, random),
    }
}

fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned()
}

/// A number that is more telling than a random one.
fn number(random: &mut Random, old: u64) -> u64 {
    match random.below(4) {
        0 => old.wrapping_add(1),
        1 => [old.wrapping_sub(1), old / 2, old.wrapping_mul(2), old.wrapping_mul(3)][random.below(4)],
        _ => *random.of(pools::NUMBERS),
    }
}

/// Bytes of a scalar of type `kind`.
fn fresh(kind: u32, old: &[u8], random: &mut Random) -> Vec<u8> {
    let mut wide = [0; 8];
    wide[..old.len()].copy_from_slice(old);
    match kind {
        F32 => random.of(pools::FLOATS).to_le_bytes().to_vec(),
        12 => f64::from(*random.of(pools::FLOATS)).to_le_bytes().to_vec(),
        BOOL => vec![[0, 1, 2, 255][random.below(4)]],
        _ => number(random, u64::from_le_bytes(wide)).to_le_bytes()[..size(kind)].to_vec(),
    }
}

fn word_for(key: &[u8], random: &mut Random) -> Vec<u8> {
    let pool = match show(key).as_str() {
        "general.architecture" => pools::ARCHITECTURES,
        "tokenizer.ggml.model" => pools::TOKENIZERS,
        "tokenizer.ggml.pre" => pools::PRE_TOKENIZERS,
        _ => pools::ROPE_SCALINGS,
    };
    match random.below(8) {
        0 => Vec::new(),
        1 => vec![b'a'; [1, 63, 64, 127, 128, 255, 4096, 100_000][random.below(8)]],
        2 => b"a\0b".to_vec(),
        3 => b"%s%n%n\xff\xc3(".to_vec(),
        _ => random.word(pool).as_bytes().to_vec(),
    }
}

fn scalar(document: &mut Document, random: &mut Random) -> String {
    let scalars: Vec<usize> =
        (0..document.pairs.len()).filter(|index| !matches!(document.pairs[*index].1, Value::List(..))).collect();
    if scalars.is_empty() {
        return "nothing".to_owned();
    }
    let (key, value) = &mut document.pairs[*random.of(&scalars)];
    match value {
        Value::Scalar(kind, bytes) => *bytes = fresh(*kind, bytes, random),
        Value::Text(bytes) => *bytes = word_for(key, random),
        Value::List(..) => unreachable!(),
    }
    format!("set {} to {}", show(key), show_value(value))
}

fn show_value(value: &Value) -> String {
    match value {
        Value::Scalar(F32, bytes) => format!("{:?}", f32::from_le_bytes(bytes.as_slice().try_into().unwrap())),
        Value::Scalar(kind, bytes) => {
            let mut wide = [0; 8];
            wide[..bytes.len()].copy_from_slice(bytes);
            format!("{} (type {kind})", u64::from_le_bytes(wide))
        }
        Value::Text(bytes) => format!("{:?}", show(bytes)),
        Value::List(of, length, body) => format!("list of {length} of type {of} in {} bytes", body.len()),
    }
}

fn list(document: &mut Document, random: &mut Random) -> String {
    let lists: Vec<usize> =
        (0..document.pairs.len()).filter(|index| matches!(document.pairs[*index].1, Value::List(..))).collect();
    if lists.is_empty() {
        return "nothing".to_owned();
    }
    let (key, value) = &mut document.pairs[*random.of(&lists)];
    let Value::List(of, length, body) = value else { unreachable!() };
    let what = random.below(8);
    if what == 0 {
        *length = number(random, *length);
    } else if what == 1 {
        *of = [U32, I32, F32, BOOL, TEXT, LIST, 0, 10, 12, 13][random.below(10)];
    } else if *of == TEXT && !body.is_empty() {
        let mut all = texts(body);
        change(&mut all, random, |old, random| match random.below(6) {
            0 => Vec::new(),
            1 => b"\0".to_vec(),
            2 => b"a\0b".to_vec(),
            3 => vec![b' '; 3],
            4 => b"\xff\xfe\xc3".to_vec(),
            _ => [old, b"x"].concat(),
        });
        *length = all.len() as u64;
        *body = all.iter().flat_map(|one| text(one)).collect();
    } else {
        let kind = *of;
        let mut all: Vec<Vec<u8>> = body.chunks(size(kind)).map(<[u8]>::to_vec).collect();
        change(&mut all, random, |old, random| fresh(kind, old, random));
        *length = all.len() as u64;
        *body = all.concat();
    }
    format!("list {} is {}", show(key), show_value(value))
}

/// Changes one element, or the number of them.
fn change(all: &mut Vec<Vec<u8>>, random: &mut Random, fresh: impl Fn(&[u8], &mut Random) -> Vec<u8>) {
    if all.is_empty() {
        return;
    }
    match random.below(8) {
        0 => all.truncate(random.below(all.len())),
        1 => all.clear(),
        2 => {
            let last = all[all.len() - 1].clone();
            let more = [1, 2, 100][random.below(3)];
            (0..more).for_each(|index| all.push([last.as_slice(), &[index; 0]].concat()));
        }
        3 => {
            let (from, to) = (random.below(all.len()), random.below(all.len()));
            all[to] = all[from].clone();
        }
        4 => {
            let (from, to) = (random.below(all.len()), random.below(all.len()));
            all.swap(from, to);
        }
        _ => {
            for _ in 0..[1, 1, 2, 10][random.below(4)] {
                let index = random.below(all.len());
                all[index] = fresh(&all[index].clone(), random);
            }
        }
    }
}

/// A value for a key that llama.cpp knows, which this file may have or not.
fn add(document: &mut Document, random: &mut Random) -> String {
    let architecture = match document.pair(b"general.architecture") {
        Some(Value::Text(name)) => show(name),
        _ => "llama".to_owned(),
    };
    let key = random.word(pools::KEYS).replace('%', &architecture).into_bytes();
    let kind = [U32, U32, U32, U32, F32, BOOL, I32, 2, 10][random.below(9)];
    let value = match random.below(8) {
        0 => Value::Text(word_for(&key, random)),
        1 | 2 => {
            let length = [0, 1, 2, 3, 4, 512, 513, 1024][random.below(8)];
            let body: Vec<u8> = (0..length).flat_map(|_| fresh(kind, &[], random)).collect();
            Value::List(kind, length, body)
        }
        _ => Value::Scalar(kind, fresh(kind, &[], random)),
    };
    let told = format!("add {} = {}", show(&key), show_value(&value));
    match document.pair(&key) {
        Some(old) => *old = value,
        None => document.pairs.push((key, value)),
    }
    told
}

fn retype(document: &mut Document, random: &mut Random) -> String {
    if document.pairs.is_empty() {
        return "nothing".to_owned();
    }
    let index = random.below(document.pairs.len());
    let (key, value) = &mut document.pairs[index];
    *value = match value.clone() {
        Value::Scalar(_, bytes) if random.below(2) == 0 => {
            let kind = [0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 255][random.below(13)];
            let mut bytes = bytes;
            bytes.resize(size(kind), 0);
            Value::Scalar(kind, bytes)
        }
        Value::Scalar(kind, bytes) => {
            let length = [0, 1, 2, 3, 4, 512, 513][random.below(7)];
            let mut all = vec![bytes; length];
            if random.below(2) == 0 {
                change(&mut all, random, |old, random| fresh(kind, old, random));
            }
            Value::List(kind, all.len() as u64, all.concat())
        }
        Value::Text(bytes) => Value::List(TEXT, 1, text(&bytes)),
        Value::List(of, _, body) if of != TEXT && body.len() >= size(of) => {
            Value::Scalar(of, body[..size(of)].to_vec())
        }
        Value::List(..) => Value::Text(b"llama".to_vec()),
    };
    format!("retype {} to {}", show(key), show_value(value))
}

/// Another architecture with this one's tensors and numbers: its own keys are read, and checked or not.
fn architecture(document: &mut Document, random: &mut Random) -> String {
    let Some(Value::Text(old)) = document.pair(b"general.architecture").cloned() else { return "nothing".to_owned() };
    let new = random.word(pools::ARCHITECTURES);
    let prefix = [old.as_slice(), b"."].concat();
    for (key, _) in &mut document.pairs {
        if let Some(rest) = key.strip_prefix(prefix.as_slice()) {
            *key = [new.as_bytes(), b".", rest].concat();
        }
    }
    *document.pair(b"general.architecture").unwrap() = Value::Text(new.as_bytes().to_vec());
    format!("architecture {new}")
}

fn header(document: &mut Document, random: &mut Random) -> String {
    match random.below(4) {
        0 => document.version = [0, 1, 2, 4, 0x0300_0000, u32::MAX][random.below(6)],
        1 | 2 => document.more[random.below(2)] = number(random, 0),
        _ => {
            if let Some(pair) = document.pairs.first().cloned() {
                document.pairs.push(pair);
            }
        }
    }
    format!("version {}, counts off by {:?}", document.version, document.more)
}

fn tensor(document: &mut Document, random: &mut Random) -> String {
    if document.tensors.is_empty() {
        return "nothing".to_owned();
    }
    let index = random.below(document.tensors.len());
    let other = random.below(document.tensors.len());
    let what = random.below(9);
    let tensor = &mut document.tensors[index];
    let before = show(&tensor.name);
    match what {
        0 | 1 if !tensor.shape.is_empty() => {
            let dimension = random.below(tensor.shape.len());
            tensor.shape[dimension] = number(random, tensor.shape[dimension]);
        }
        2 => tensor.shape.push(number(random, 1)),
        3 => {
            tensor.shape.pop();
        }
        4 => tensor.format = [0, 1, 2, 8, 12, 24, 26, 27, 28, 30, 39, 40, 4, 43, 1000][random.below(15)],
        5 => tensor.offset = number(random, tensor.offset),
        6 => {
            let name = document.tensors[other].name.clone();
            document.tensors[other].name = std::mem::replace(&mut document.tensors[index].name, name);
        }
        7 => {
            let mut name = before.clone();
            match random.below(6) {
                0 => name = name.replace("weight", "bias"),
                1 => name = name.replace("blk.0", "blk.1"),
                2 => name = name.replace("blk.1", "blk.4000000000"),
                3 => name = name.replace(".weight", ".scale"),
                4 => name.push_str(&"x".repeat(64)),
                _ => name = String::new(),
            }
            tensor.name = name.into_bytes();
        }
        _ => {
            document.tensors.remove(index);
        }
    }
    // Right again in all but what was changed, so that it gets past the directory's checks.
    if random.below(4) != 0 {
        document.lay_out();
    }
    let after =
        document.tensors.get(index).map(|t| format!("{} {:?} {} {}", show(&t.name), t.shape, t.format, t.offset));
    format!("tensor {before}: change {what} with {other}, now {after:?}")
}

/// Bits and pieces of the header's bytes.
fn unstructured(bytes: &mut Vec<u8>, header: usize, random: &mut Random) -> String {
    if header == 0 || bytes.len() < header {
        return "nothing".to_owned();
    }
    match random.below(5) {
        0..2 => {
            let flips = [1, 1, 2, 8, 64][random.below(5)];
            let places: Vec<(usize, usize)> = (0..flips).map(|_| (random.below(header), random.below(8))).collect();
            for (byte, bit) in &places {
                bytes[*byte] ^= 1 << bit;
            }
            format!("flip {:?}", &places[..places.len().min(4)])
        }
        2 => {
            let (from, to) = (random.below(header), random.below(header));
            let length = random.below(64).min(header - from.max(to));
            bytes.copy_within(from..from + length, to);
            format!("splice {length} bytes from {from} to {to}")
        }
        3 => {
            let length = random.below(bytes.len());
            bytes.truncate(length);
            format!("cut at {length}")
        }
        _ => {
            let place = random.below(header);
            let count = random.below(16);
            if random.below(2) == 0 {
                bytes.splice(place..place, (0..count).map(|_| 0xff));
            } else {
                bytes.drain(place..(place + count).min(bytes.len()));
            }
            format!("shift by {count} bytes at {place}")
        }
    }
}
