//! The vocabulary as a tree of bytes: which tokens go on from here is found without looking at each of them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::id::Token;
use crate::token_set::TokenSet;

/// A vocabulary's tokens by their bytes.
#[derive(Debug)]
pub(crate) struct TokenTrie {
    /// In preorder, without the root: the nodes below one follow it, up to its `end`.
    nodes: Vec<TrieNode>,
    /// The bytes of all nodes below those that have many of them.
    below: Vec<ByteSet>,
    /// Tokens in the order of the nodes that they end at.
    tokens: Vec<u32>,
    /// Where the bytes of each token begin in `bytes`; one more at the end.
    starts: Vec<u32>,
    bytes: Vec<u8>,
    /// Of tokens that stand for no text.
    names: HashMap<u32, Vec<u8>>,
    /// Those that end a generation.
    ends: Arc<TokenSet>,
    deepest: usize,
}

/// One byte of one or more tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TrieNode {
    /// Index of the first node that is not below this one.
    pub(crate) end: u32,
    /// Bytes before this one.
    pub(crate) depth: u32,
    /// Where the tokens that end here begin; they end where the next node's begin.
    pub(crate) first_token: u32,
    /// Index of its set in `below`, or `FEW`.
    below: u32,
    /// The byte.
    pub(crate) byte: u8,
}

/// A bit for each byte.
pub(crate) type ByteSet = [u64; 4];

/// Fewer nodes below one than are worth a set.
const FEW: u32 = u32::MAX;
const MANY_NODES: usize = 12;

impl TokenTrie {
    /// The tree of `pieces`, the bytes of each token by its id. Tokens without bytes, which have `names`, are left out, as are
    /// those of `ends`.
    pub(crate) fn new(pieces: &[Vec<u8>], names: HashMap<u32, Vec<u8>>, ends: TokenSet) -> Self {
        let mut starts = Vec::with_capacity(pieces.len() + 1);
        let mut bytes = Vec::new();
        for piece in pieces {
            starts.push(bytes.len() as u32);
            bytes.extend_from_slice(piece);
        }
        starts.push(bytes.len() as u32);
        let mut tokens: Vec<u32> = (0..pieces.len() as u32)
            .filter(|&id| !pieces[id as usize].is_empty() && !ends.contains(Token(id as i32)))
            .collect();
        tokens.sort_by_key(|&id| &pieces[id as usize]);
        let (mut nodes, deepest) = preorder(&tokens, pieces);
        let below = bytes_below(&mut nodes);
        Self { nodes, below, tokens, starts, bytes, names, ends: Arc::new(ends), deepest }
    }

    /// Tokens of the vocabulary.
    pub(crate) fn vocabulary(&self) -> u32 {
        self.ends.vocabulary()
    }

    /// The tokens that end a generation.
    pub(crate) fn ends(&self) -> &Arc<TokenSet> {
        &self.ends
    }

    /// The bytes of a token; none for one that stands for no text or is not in the vocabulary.
    pub(crate) fn piece(&self, token: u32) -> &[u8] {
        let at = token as usize;
        match (self.starts.get(at), self.starts.get(at + 1)) {
            (Some(&start), Some(&end)) => &self.bytes[start as usize..end as usize],
            _ => &[],
        }
    }

    /// The bytes of a token; its name, if it stands for no text.
    pub(crate) fn name(&self, token: u32) -> &[u8] {
        self.names.get(&token).map_or_else(|| self.piece(token), Vec::as_slice)
    }

    /// Bytes of the longest token.
    pub(crate) fn deepest(&self) -> usize {
        self.deepest
    }

    /// All nodes, in preorder.
    pub(crate) fn nodes(&self) -> &[TrieNode] {
        &self.nodes
    }

    /// Tokens that end at the node of this index.
    pub(crate) fn tokens_at(&self, node: usize) -> &[u32] {
        self.tokens_of(node, node + 1)
    }

    /// Tokens that end at the node of this index or below it.
    pub(crate) fn tokens_from(&self, node: usize) -> &[u32] {
        self.tokens_of(node, self.nodes[node].end as usize)
    }

    fn tokens_of(&self, node: usize, end: usize) -> &[u32] {
        let start = self.nodes[node].first_token as usize;
        let end = self.nodes.get(end).map_or(self.tokens.len(), |next| next.first_token as usize);
        &self.tokens[start..end]
    }

    /// The bytes of all nodes below one, where those are many.
    pub(crate) fn below(&self, node: &TrieNode) -> Option<&ByteSet> {
        self.below.get(node.below as usize)
    }
}

/// The nodes of sorted tokens, and the depth of the deepest.
fn preorder(tokens: &[u32], pieces: &[Vec<u8>]) -> (Vec<TrieNode>, usize) {
    let mut nodes: Vec<TrieNode> = Vec::new();
    // Nodes from the root to the last one.
    let mut path: Vec<usize> = Vec::new();
    let mut deepest = 0;
    let mut last: &[u8] = &[];
    for (index, &token) in tokens.iter().enumerate() {
        let piece = &pieces[token as usize];
        let shared = last.iter().zip(piece).take_while(|(a, b)| a == b).count();
        let next = nodes.len() as u32;
        for closed in path.drain(shared.min(path.len())..) {
            nodes[closed].end = next;
        }
        for (depth, &byte) in piece.iter().enumerate().skip(shared) {
            path.push(nodes.len());
            // The token belongs to the last of its nodes: those before have none, and begin where it does.
            nodes.push(TrieNode { end: 0, depth: depth as u32, first_token: index as u32, below: FEW, byte });
        }
        deepest = deepest.max(piece.len());
        last = piece;
    }
    let next = nodes.len() as u32;
    for open in path {
        nodes[open].end = next;
    }
    (nodes, deepest)
}

/// Sets of the bytes below each node that has many nodes below.
fn bytes_below(nodes: &mut [TrieNode]) -> Vec<ByteSet> {
    let mut sets: Vec<ByteSet> = Vec::new();
    // Nodes from the root to the last one, those with many below, each with its set.
    let mut path: Vec<(u32, usize)> = Vec::new();
    for (index, node) in nodes.iter_mut().enumerate() {
        while path.last().is_some_and(|(end, _)| *end as usize <= index) {
            path.pop();
        }
        for &(_, set) in &path {
            sets[set][usize::from(node.byte) / 64] |= 1 << (node.byte % 64);
        }
        if node.end as usize - index > MANY_NODES {
            node.below = sets.len() as u32;
            path.push((node.end, sets.len()));
            sets.push([0; 4]);
        }
    }
    sets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trie(pieces: &[&[u8]]) -> TokenTrie {
        let pieces: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.to_vec()).collect();
        let ends = TokenSet::empty(pieces.len() as u32);
        TokenTrie::new(&pieces, HashMap::new(), ends)
    }

    /// Every token is found at the end of its bytes, and nowhere else.
    fn found(trie: &TokenTrie) -> Vec<(u32, Vec<u8>)> {
        let (mut path, mut found) = (Vec::new(), Vec::new());
        for (index, node) in trie.nodes().iter().enumerate() {
            path.truncate(node.depth as usize);
            path.push(node.byte);
            found.extend(trie.tokens_at(index).iter().map(|&token| (token, path.clone())));
        }
        found.sort();
        found
    }

    #[test]
    fn every_token_ends_at_its_bytes() {
        let pieces: [&[u8]; 8] = [b"ab", b"", b"a", b"abc", b"b", b"ab", b"\xf0\x9f", b"abd"];
        let trie = trie(&pieces);
        let expected: Vec<_> = (0..8).filter(|&id| id != 1).map(|id| (id, pieces[id as usize].to_vec())).collect();
        assert_eq!(found(&trie), expected);
        assert_eq!(trie.deepest(), 3);
        assert_eq!(trie.piece(3), b"abc");
        assert_eq!(trie.piece(8), b"");
        // "a" with all below it, then "b".
        assert_eq!(trie.nodes()[0].end, 4);
    }

    #[test]
    fn bytes_below_a_node_are_those_of_its_nodes() {
        let pieces: Vec<Vec<u8>> = (0..400u32).map(|id| format!("{:o}", id * 7919).into_bytes()).collect();
        let trie = TokenTrie::new(&pieces, HashMap::new(), TokenSet::empty(400));
        let mut sets = 0;
        for (index, node) in trie.nodes().iter().enumerate() {
            let nodes = &trie.nodes()[index + 1..node.end as usize];
            let mut expected = [0; 4];
            nodes.iter().for_each(|node| expected[usize::from(node.byte) / 64] |= 1 << (node.byte % 64));
            assert_eq!(trie.below(node).is_some(), nodes.len() >= MANY_NODES);
            if let Some(set) = trie.below(node) {
                assert_eq!(*set, expected);
                sets += 1;
            }
            let below: usize = (index..node.end as usize).map(|index| trie.tokens_at(index).len()).sum();
            assert_eq!(trie.tokens_from(index).len(), below);
        }
        assert!(sets > 10);
    }

    #[test]
    fn an_empty_vocabulary_has_no_nodes() {
        assert!(trie(&[]).nodes().is_empty());
        assert!(trie(&[b"", b""]).nodes().is_empty());
    }

    #[test]
    fn tokens_that_end_a_generation_are_no_text() {
        let mut ends = TokenSet::empty(2);
        ends.insert(1);
        let trie = TokenTrie::new(&[b"a".to_vec(), vec![]], HashMap::from([(1, b"</s>".to_vec())]), ends);
        assert_eq!((trie.name(0), trie.name(1), trie.piece(1)), (&b"a"[..], &b"</s>"[..], &b""[..]));
        assert_eq!(found(&trie), [(0, b"a".to_vec())]);
    }
}
