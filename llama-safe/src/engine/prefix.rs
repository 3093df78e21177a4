//! Which sequence begins as a text does: a radix tree over the tokens that sequences hold. Plain data, no llama.cpp.
//!
//! Nothing here recurses: texts that each end one token after another make a tree as deep as the longest of them.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::iter;

use crate::id::Token;

/// Names what holds a text in memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct HolderId(pub(crate) u64);

/// The texts of holders, each common beginning once.
///
/// Every node but the root has a holder whose text ends there, or two children or more: there are at most twice as many nodes
/// as holders, however long the texts are.
#[derive(Debug)]
pub(crate) struct PrefixTree {
    nodes: Vec<Node>,
    /// Indices of nodes that were given up, and can be used again.
    unused: Vec<usize>,
    /// The node at which each holder's text ends.
    ends: HashMap<HolderId, usize>,
    tokens: usize,
}

#[derive(Default, Debug)]
struct Node {
    /// The root's is the root.
    parent: usize,
    /// Tokens from the parent to here; the root alone has none.
    edge: Vec<Token>,
    /// Tokens from the root to here.
    depth: usize,
    /// By the first token of their edges.
    children: BTreeMap<Token, usize>,
    /// Those whose text ends here.
    holders: BTreeSet<HolderId>,
}

const ROOT: usize = 0;

impl PrefixTree {
    /// One without holders.
    pub(crate) fn new() -> Self {
        Self { nodes: vec![Node::default()], unused: Vec::new(), ends: HashMap::new(), tokens: 0 }
    }

    /// Holders.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Tokens that are stored: those of common beginnings count once.
    #[cfg(test)]
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Sets the text of a holder, in place of the one that it had.
    pub(crate) fn insert(&mut self, holder: HolderId, text: &[Token]) {
        let (reached, depth) = self.walk(text);
        let branch = if depth < self.nodes[reached].depth { self.split(reached, depth) } else { reached };
        let end = if depth < text.len() { self.add_leaf(branch, &text[depth..]) } else { branch };
        // The new end first, then the old one: so a text that grows has its tokens lengthened, and is not copied.
        self.nodes[end].holders.insert(holder);
        if let Some(before) = self.ends.insert(holder, end).filter(|before| *before != end) {
            self.leave(before, holder);
        }
    }

    /// Forgets a holder, if it is known, and the tokens that only its text had.
    pub(crate) fn remove(&mut self, holder: HolderId) {
        if let Some(end) = self.ends.remove(&holder) {
            self.leave(end, holder);
        }
    }

    /// The holder with the most tokens that are of use for `text`, and how many; of equals the highest one.
    ///
    /// `usable` is asked, with a holder and the tokens from the beginning that it has in common with `text`, how many of these
    /// can be used. Holders with more in common are asked first, and none that cannot be the best.
    pub(crate) fn best(&self, text: &[Token], mut usable: impl FnMut(HolderId, u32) -> u32) -> Option<(HolderId, u32)> {
        let (mut top, mut common) = self.walk(text);
        let mut best: Option<(u32, HolderId)> = None;
        let mut seen = None;
        let mut left = Vec::new();
        while common > 0 && best.is_none_or(|(length, _)| common >= length as usize) {
            left.push(top);
            while let Some(node) = left.pop() {
                let node = &self.nodes[node];
                for &holder in &node.holders {
                    let length = usable(holder, common as u32).min(common as u32);
                    best = best.max((length > 0).then_some((length, holder)));
                }
                left.extend(node.children.values().filter(|child| seen != Some(**child)));
            }
            seen = Some(top);
            top = self.nodes[top].parent;
            common = self.nodes[top].depth;
        }
        best.map(|(length, holder)| (holder, length))
    }

    /// Tokens from the beginning that a holder's text has in common with `text`; 0 for one that is not known.
    #[cfg(test)]
    pub(crate) fn common(&self, holder: HolderId, text: &[Token]) -> u32 {
        let Some(&end) = self.ends.get(&holder) else { return 0 };
        let path: Vec<usize> =
            iter::successors(Some(end), |node| (*node != ROOT).then(|| self.nodes[*node].parent)).collect();
        let mut common = 0;
        for node in path.into_iter().rev() {
            common += shared(&self.nodes[node].edge, &text[common..]);
            if common < self.nodes[node].depth {
                break;
            }
        }
        common as u32
    }

    /// How many tokens of `text` are in the tree, and the node that the last one of them leads to, or is on the way to.
    fn walk(&self, text: &[Token]) -> (usize, usize) {
        let (mut node, mut depth) = (ROOT, 0);
        while depth == self.nodes[node].depth
            && let Some(&child) = text.get(depth).and_then(|token| self.nodes[node].children.get(token))
        {
            node = child;
            depth += shared(&self.nodes[node].edge, &text[depth..]);
        }
        (node, depth)
    }

    /// Puts a node on the way to `node`, at a depth within its edge.
    fn split(&mut self, node: usize, depth: usize) -> usize {
        let parent = self.nodes[node].parent;
        let mut upper = std::mem::take(&mut self.nodes[node].edge);
        let lower = upper.split_off(upper.len() - (self.nodes[node].depth - depth));
        upper.shrink_to_fit();
        let (first, next) = (upper[0], lower[0]);
        let children = BTreeMap::from([(next, node)]);
        let middle = self.add(Node { parent, edge: upper, depth, children, holders: BTreeSet::new() });
        self.nodes[parent].children.insert(first, middle);
        self.nodes[node].parent = middle;
        self.nodes[node].edge = lower;
        middle
    }

    fn add_leaf(&mut self, parent: usize, edge: &[Token]) -> usize {
        let depth = self.nodes[parent].depth + edge.len();
        let leaf = self.add(Node { parent, edge: edge.to_vec(), depth, ..Node::default() });
        self.nodes[parent].children.insert(edge[0], leaf);
        self.tokens += edge.len();
        leaf
    }

    fn add(&mut self, node: Node) -> usize {
        if let Some(index) = self.unused.pop() {
            self.nodes[index] = node;
            return index;
        }
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn give_up(&mut self, node: usize) -> Node {
        self.unused.push(node);
        std::mem::take(&mut self.nodes[node])
    }

    /// Takes a holder from the node at which its text ended, and the node away if nothing needs it.
    fn leave(&mut self, node: usize, holder: HolderId) {
        let end = &mut self.nodes[node];
        end.holders.remove(&holder);
        if node == ROOT || !end.holders.is_empty() || !end.children.is_empty() {
            return self.join(node);
        }
        let leaf = self.give_up(node);
        self.tokens -= leaf.edge.len();
        self.nodes[leaf.parent].children.remove(&leaf.edge[0]);
        self.join(leaf.parent);
    }

    /// Joins a node with its child, if it is there for that alone.
    fn join(&mut self, node: usize) {
        let Node { holders, children, .. } = &self.nodes[node];
        let (1, Some(&child)) = (children.len(), children.values().next()) else { return };
        if node == ROOT || !holders.is_empty() {
            return;
        }
        let mut upper = self.give_up(node);
        self.nodes[upper.parent].children.insert(upper.edge[0], child);
        upper.edge.append(&mut self.nodes[child].edge);
        self.nodes[child].edge = upper.edge;
        self.nodes[child].parent = upper.parent;
    }
}

/// Tokens from the beginning that two texts have in common.
fn shared(one: &[Token], other: &[Token]) -> usize {
    iter::zip(one, other).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(tokens: &[i32]) -> Vec<Token> {
        tokens.iter().map(|id| Token(*id)).collect()
    }

    fn tree(texts: &[&[i32]]) -> PrefixTree {
        let mut tree = PrefixTree::new();
        for (holder, tokens) in texts.iter().enumerate() {
            tree.insert(HolderId(holder as u64), &text(tokens));
        }
        tree
    }

    /// Nodes that are in use, the root among them, each found in its place.
    fn nodes(tree: &PrefixTree) -> usize {
        let mut left = vec![ROOT];
        let (mut count, mut tokens) = (0, 0);
        while let Some(index) = left.pop() {
            let node = &tree.nodes[index];
            count += 1;
            tokens += node.edge.len();
            assert_eq!(node.depth, if index == ROOT { 0 } else { tree.nodes[node.parent].depth + node.edge.len() });
            assert!(index == ROOT || !node.holders.is_empty() || node.children.len() > 1, "a node without a use");
            for (first, child) in &node.children {
                assert_eq!((tree.nodes[*child].edge[0], tree.nodes[*child].parent), (*first, index));
                left.push(*child);
            }
        }
        assert_eq!(tokens, tree.tokens());
        assert_eq!(count + tree.unused.len(), tree.nodes.len());
        count
    }

    #[test]
    fn the_longest_common_beginning_is_the_best() {
        let tree = tree(&[&[1, 2, 3], &[1, 2, 4, 5], &[], &[7]]);
        let best = |tokens: &[i32]| tree.best(&text(tokens), |_, common| common);
        assert_eq!(best(&[1, 2, 4, 5, 6]), Some((HolderId(1), 4)));
        assert_eq!(best(&[1, 2, 3]), Some((HolderId(0), 3)));
        assert_eq!(best(&[1, 2]), Some((HolderId(1), 2)), "of equals the highest");
        assert_eq!(best(&[1, 2, 9]), Some((HolderId(1), 2)));
        assert_eq!(best(&[7, 7]), Some((HolderId(3), 1)));
        assert_eq!(best(&[2, 1]), None);
        assert_eq!(best(&[]), None);
    }

    #[test]
    fn what_is_of_no_use_is_passed_over() {
        let tree = tree(&[&[1, 2, 3, 4], &[1, 2, 3], &[1, 9]]);
        let of = text(&[1, 2, 3, 4, 5]);
        assert_eq!(tree.best(&of, |holder, common| if holder.0 == 0 { 0 } else { common }), Some((HolderId(1), 3)));
        assert_eq!(tree.best(&of, |holder, common| if holder.0 == 0 { 1 } else { common }), Some((HolderId(1), 3)));
        assert_eq!(tree.best(&of, |_, _| 1), Some((HolderId(2), 1)));
        assert_eq!(tree.best(&of, |_, _| 0), None);
        assert_eq!(tree.best(&of, |_, _| 100), Some((HolderId(0), 4)), "no more than is common");
    }

    #[test]
    fn nobody_is_asked_in_vain() {
        let tree = tree(&[&[1, 2, 3, 4], &[1, 2, 3, 4, 5], &[1, 2, 9], &[8]]);
        let mut asked = Vec::new();
        let best = tree.best(&text(&[1, 2, 3, 4]), |holder, common| {
            asked.push((holder.0, common));
            common
        });
        assert_eq!((best, asked), (Some((HolderId(1), 4)), vec![(0, 4), (1, 4)]));
    }

    #[test]
    fn a_text_that_grows_stays_one_edge() {
        let mut tree = PrefixTree::new();
        let tokens: Vec<Token> = (0..1000).map(Token).collect();
        for length in 0..=tokens.len() {
            tree.insert(HolderId(5), &tokens[..length]);
        }
        assert_eq!((tree.len(), tree.tokens(), nodes(&tree), tree.nodes.len()), (1, 1000, 2, 3));
        tree.remove(HolderId(4));
        assert_eq!(tree.common(HolderId(5), &tokens), 1000);
        tree.insert(HolderId(5), &[]);
        assert_eq!((tree.len(), tree.tokens(), nodes(&tree)), (1, 0, 1));
        tree.remove(HolderId(5));
        assert_eq!((tree.len(), tree.tokens(), nodes(&tree)), (0, 0, 1));
    }

    /// On a stack that recursion, a frame for each node, would leave far behind.
    #[test]
    fn a_deep_tree_needs_no_stack() {
        const DEEP: usize = 3000;
        let run = || {
            let tokens = vec![Token(0); DEEP];
            let mut tree = PrefixTree::new();
            for length in (0..DEEP).map(|index| (index * 7919) % DEEP + 1) {
                tree.insert(HolderId(length as u64), &tokens[..length]);
            }
            assert_eq!((tree.len(), tree.tokens(), nodes(&tree)), (DEEP, DEEP, DEEP + 1));
            assert_eq!(tree.best(&tokens, |_, _| 1), Some((HolderId(DEEP as u64), 1)));
            assert_eq!(tree.best(&tokens, |holder, _| u32::from(holder.0 == 1)), Some((HolderId(1), 1)));
            assert_eq!(tree.best(&tokens[..1], |_, _| 1), Some((HolderId(DEEP as u64), 1)));
            assert_eq!(tree.common(HolderId(DEEP as u64), &tokens), DEEP as u32);
            for holder in 1..DEEP as u64 {
                tree.remove(HolderId(holder));
            }
            assert_eq!((tree.len(), tree.tokens(), nodes(&tree)), (1, DEEP, 2));
        };
        std::thread::Builder::new().stack_size(64 << 10).spawn(run).unwrap().join().unwrap();
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64, Vec<i32>),
        /// As a holder's text is when it was generated further or cut: some of another's, and then its own.
        Vary(u64, u64, usize, Vec<i32>),
        Remove(u64),
        Best(Vec<i32>, u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let some = || prop::collection::vec(0..3i32, 0..12);
        prop_oneof![
            (0..8u64, some()).prop_map(|(holder, tokens)| Step::Insert(holder, tokens)),
            (0..8u64, 0..8u64, 0..20usize, some())
                .prop_map(|(holder, of, length, more)| Step::Vary(holder, of, length, more)),
            (0..8u64).prop_map(Step::Remove),
            (some(), any::<u64>()).prop_map(|(tokens, seed)| Step::Best(tokens, seed)),
        ]
    }

    /// Any number, the same for the same arguments.
    fn noise(seed: u64, holder: HolderId, common: u32) -> u32 {
        let mixed = (seed ^ holder.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(u64::from(common));
        (mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as u32 % (common + 2)
    }

    proptest! {
        /// Against a list of texts, each looked at from its beginning.
        #[test]
        fn as_a_linear_scan(steps in prop::collection::vec(step(), 0..60)) {
            let mut tree = PrefixTree::new();
            let mut texts: Vec<(HolderId, Vec<Token>)> = Vec::new();
            let set = |texts: &mut Vec<(HolderId, Vec<Token>)>, holder, text| {
                texts.retain(|(other, _)| *other != holder);
                texts.push((holder, text));
            };
            for step in steps {
                match step {
                    Step::Insert(holder, tokens) => {
                        tree.insert(HolderId(holder), &text(&tokens));
                        set(&mut texts, HolderId(holder), text(&tokens));
                    }
                    Step::Vary(holder, of, length, more) => {
                        let of = texts.iter().find(|(other, _)| other.0 == of);
                        let mut tokens = of.map_or_else(Vec::new, |(_, tokens)| tokens.clone());
                        tokens.truncate(length);
                        tokens.extend(text(&more));
                        tree.insert(HolderId(holder), &tokens);
                        set(&mut texts, HolderId(holder), tokens);
                    }
                    Step::Remove(holder) => {
                        tree.remove(HolderId(holder));
                        texts.retain(|(other, _)| other.0 != holder);
                    }
                    Step::Best(tokens, seed) => {
                        let tokens = text(&tokens);
                        let usable = |holder, common| noise(seed, holder, common);
                        let expected = texts
                            .iter()
                            .map(|(holder, text)| (*holder, shared(text, &tokens) as u32))
                            .map(|(holder, common)| (usable(holder, common).min(common), holder))
                            .filter(|(length, _)| *length > 0)
                            .max();
                        prop_assert_eq!(tree.best(&tokens, usable), expected.map(|(length, holder)| (holder, length)));
                        for (holder, text) in &texts {
                            prop_assert_eq!(tree.common(*holder, &tokens), shared(text, &tokens) as u32);
                        }
                        prop_assert_eq!(tree.common(HolderId(99), &tokens), 0);
                    }
                }
                prop_assert_eq!(tree.len(), texts.len());
                let beginnings: BTreeSet<&[Token]> =
                    texts.iter().flat_map(|(_, text)| (1..=text.len()).map(move |length| &text[..length])).collect();
                prop_assert_eq!(tree.tokens(), beginnings.len());
                prop_assert!(nodes(&tree) <= 2 * texts.len() + 1);
            }
        }
    }
}
