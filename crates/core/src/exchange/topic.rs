//! topic: patterns of words split on `.`, `*` for one word, `#` for zero or more [spec §3.1.3.3].
//!
//! A trie of words. A key is matched by walking all live nodes word by word, each node at most once per word, so the cost
//! depends on the nodes a key reaches and never doubles with the number of `#`.
//!
//! With many bindings each place in memory that a walk touches costs as much as a hundred instructions. So a node is one
//! cache line with its only binding in it, and an edge is found by the octets of a short word, without a table of words. An only
//! child is known by its parent and needs no entry in the table of edges: most nodes below the first words are such.

use super::{BindingRef, Leaf, Node, Place};
use crate::topology::RouteInput;
use hornpipe_types::Map;
use hornpipe_types::error::AmqpError;

/// RabbitMQ 4.3: a binding key may hold at most so many `#`.
const HASHES_MAX: usize = 2;
const NONE: u32 = u32::MAX;
const ROOT: u32 = 0;

/// Checks a binding key (406).
pub(crate) fn check_key(key: &str) -> Result<(), AmqpError> {
    let n = key.split('.').filter(|w| *w == "#").count();
    if n > HASHES_MAX {
        return Err(AmqpError::precondition(format!(
            "Topic binding key '{key}' uses {n} '#' wildcards, at most {HASHES_MAX} are allowed"
        )));
    }
    Ok(())
}

/// How a node hangs on its parent: octets of a short word and its length, or in the last octet what else it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Edge([u8; Edge::SIZE]);

impl Edge {
    const SIZE: usize = 16;
    const SHORT: usize = Self::SIZE - 1;
    const STAR: Self = Self::special(16);
    const HASH: Self = Self::special(17);
    /// A word that is too long, by its number.
    const NUMBERED: u8 = 18;

    const fn special(kind: u8) -> Self {
        let mut octets = [0; Self::SIZE];
        octets[Self::SHORT] = kind;
        Self(octets)
    }
    fn short(word: &str) -> Option<Self> {
        let mut octets = [0; Self::SIZE];
        octets[..Self::SHORT].get_mut(..word.len())?.copy_from_slice(word.as_bytes());
        octets[Self::SHORT] = word.len() as u8;
        Some(Self(octets))
    }
    fn numbered(number: u32) -> Self {
        let mut edge = Self::special(Self::NUMBERED);
        edge.0[..4].copy_from_slice(&number.to_le_bytes());
        edge
    }
    /// The number, if it is such a one.
    fn number(self) -> Option<u32> {
        let [a, b, c, d, ..] = self.0;
        (self.0[Self::SHORT] == Self::NUMBERED).then(|| u32::from_le_bytes([a, b, c, d]))
    }
}

/// Children by literal word, in four octets: none, one, or from [`Self::MANY`] on how many there are in the table of edges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Words(u32);

impl Words {
    const ABSENT: Self = Self(NONE);
    const MANY: u32 = 1 << 31;

    /// How many are in the table, if they are there.
    fn in_table(self) -> Option<u32> {
        (self != Self::ABSENT).then(|| self.0.checked_sub(Self::MANY))?
    }
    /// The only one.
    fn only(self) -> Option<u32> {
        (self.0 < Self::MANY).then_some(self.0)
    }
}

#[derive(Debug)]
#[repr(align(64))]
struct TrieNode {
    leaf: Leaf,
    /// The step at which a walk last reached the node.
    mark: u64,
    edge: Edge,
    parent: u32,
    words: Words,
    star: u32,
    hash: u32,
}

const _: () = assert!(size_of::<TrieNode>() == 64);

impl TrieNode {
    fn new(parent: u32, edge: Edge) -> Self {
        Self { leaf: Leaf::default(), parent, edge, words: Words::ABSENT, star: NONE, hash: NONE, mark: 0 }
    }
}

/// The trie of one exchange.
#[derive(Debug)]
pub(crate) struct Topic {
    nodes: Vec<TrieNode>,
    free_nodes: Vec<u32>,
    /// Child by literal word, of all nodes together that have more than one.
    edges: Map<(u32, Edge), u32>,
    /// Long words used in bindings, numbered, with the number of edges that use each.
    words: Map<Box<str>, (u32, u32)>,
    /// Text of each word number, to free it.
    texts: Vec<Box<str>>,
    free_words: Vec<u32>,
    /// Nodes for `#`: without any, no walk reaches a node twice.
    hashes: usize,
    step: u64,
    now: Vec<u32>,
    next: Vec<u32>,
}

impl Default for Topic {
    fn default() -> Self {
        Self {
            nodes: vec![TrieNode::new(NONE, Edge::HASH)],
            free_nodes: Vec::new(),
            edges: Map::default(),
            words: Map::default(),
            texts: Vec::new(),
            free_words: Vec::new(),
            hashes: 0,
            step: 0,
            now: Vec::new(),
            next: Vec::new(),
        }
    }
}

impl Topic {
    pub(crate) fn insert(&mut self, b: BindingRef<'_>) -> Place {
        let mut at = ROOT;
        for word in words_of(b.key) {
            at = match word {
                "*" => self.wildcard_child(at, Edge::STAR),
                "#" => self.wildcard_child(at, Edge::HASH),
                _ => self.word_child(at, word),
            };
        }
        Place { leaf: at, pos: self.nodes[at as usize].leaf.push(b.target) }
    }

    pub(crate) fn remove(&mut self, place: Place) -> Option<u32> {
        let moved = self.nodes[place.leaf as usize].leaf.remove(place.pos);
        self.prune(place.leaf);
        moved
    }

    fn add_node(&mut self, parent: u32, edge: Edge) -> u32 {
        let node = TrieNode::new(parent, edge);
        match self.free_nodes.pop() {
            Some(at) => {
                self.nodes[at as usize] = node;
                at
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() as u32 - 1
            }
        }
    }

    fn wildcard_child(&mut self, at: u32, edge: Edge) -> u32 {
        let node = &self.nodes[at as usize];
        let child = if edge == Edge::STAR { node.star } else { node.hash };
        if child != NONE {
            return child;
        }
        let child = self.add_node(at, edge);
        let node = &mut self.nodes[at as usize];
        if edge == Edge::STAR {
            node.star = child;
        } else {
            node.hash = child;
            self.hashes += 1;
        }
        child
    }

    fn word_child(&mut self, at: u32, word: &str) -> u32 {
        let edge = edge_of(&self.words, word);
        if let Some(child) = edge.and_then(|edge| child_of(&self.nodes, &self.edges, at, edge)) {
            return child;
        }
        let edge = Edge::short(word).unwrap_or_else(|| Edge::numbered(self.use_word(word)));
        let child = self.add_node(at, edge);
        let words = self.nodes[at as usize].words;
        let words = if words == Words::ABSENT {
            Words(child)
        } else {
            let before = words.in_table().unwrap_or_else(|| {
                self.edges.insert((at, self.nodes[words.0 as usize].edge), words.0);
                1
            });
            self.edges.insert((at, edge), child);
            Words(Words::MANY + before + 1)
        };
        self.nodes[at as usize].words = words;
        child
    }

    /// The number of a long word, which one more edge uses now.
    fn use_word(&mut self, word: &str) -> u32 {
        if let Some((number, uses)) = self.words.get_mut(word) {
            *uses += 1;
            return *number;
        }
        let number = match self.free_words.pop() {
            Some(n) => {
                self.texts[n as usize] = word.into();
                n
            }
            None => {
                self.texts.push(word.into());
                self.texts.len() as u32 - 1
            }
        };
        self.words.insert(word.into(), (number, 1));
        number
    }

    /// Removes a node that holds nothing, then its parent if that holds nothing now, and so on.
    fn prune(&mut self, mut at: u32) {
        while at != ROOT {
            let node = &self.nodes[at as usize];
            if !node.leaf.is_empty() || node.words != Words::ABSENT || node.star != NONE || node.hash != NONE {
                return;
            }
            let (parent, edge) = (node.parent, node.edge);
            let above = &mut self.nodes[parent as usize];
            match edge {
                Edge::STAR => above.star = NONE,
                Edge::HASH => {
                    above.hash = NONE;
                    self.hashes -= 1;
                }
                _ => {
                    above.words = match above.words.in_table() {
                        Some(2..) => Words(above.words.0 - 1),
                        _ => Words::ABSENT,
                    };
                    self.edges.remove(&(parent, edge));
                    self.drop_word(edge);
                }
            }
            self.free_nodes.push(at);
            at = parent;
        }
    }

    /// An edge is gone; the word, if it had a number, perhaps with it.
    fn drop_word(&mut self, edge: Edge) {
        let Some(number) = edge.number() else { return };
        let text = &self.texts[number as usize];
        if let Some((_, uses)) = self.words.get_mut(&**text) {
            *uses -= 1;
            if *uses == 0 {
                self.words.remove(&**text);
                self.free_words.push(number);
            }
        }
    }

    /// Says how many nodes it came by.
    pub(crate) fn select(&mut self, input: &RouteInput<'_>, sink: &mut impl FnMut(Node)) -> u32 {
        input.keys.iter().map(|key| self.select_key(key, sink)).fold(0, u32::saturating_add)
    }

    /// The walk where no node can be reached in two ways: it marks none, and so writes to none.
    fn select_without_hash(&mut self, key: &str, sink: &mut impl FnMut(Node)) -> u32 {
        let Self { nodes, edges, words, now, next, .. } = self;
        let mut nodes_met = 0u32;
        now.clear();
        now.push(ROOT);
        for word in words_of(key) {
            let edge = edge_of(words, word);
            next.clear();
            for &at in now.iter() {
                next.extend(edge.and_then(|edge| child_of(nodes, edges, at, edge)));
                let star = nodes[at as usize].star;
                next.extend((star != NONE).then_some(star));
            }
            std::mem::swap(now, next);
            nodes_met = nodes_met.saturating_add(now.len() as u32);
            if now.is_empty() {
                return nodes_met;
            }
        }
        for &at in now.iter() {
            nodes[at as usize].leaf.iter().for_each(|t| sink(t.node));
        }
        nodes_met
    }

    fn select_key(&mut self, key: &str, sink: &mut impl FnMut(Node)) -> u32 {
        if self.hashes == 0 {
            return self.select_without_hash(key, sink);
        }
        let Self { nodes, edges, words, step, now, next, .. } = self;
        let mut nodes_met = 0u32;
        now.clear();
        *step += 1;
        reach(nodes, *step, now, ROOT);
        for word in words_of(key) {
            let edge = edge_of(words, word);
            next.clear();
            *step += 1;
            for &at in now.iter() {
                let node = &nodes[at as usize];
                let (is_hash, star) = (at != ROOT && node.edge == Edge::HASH, node.star);
                let child = edge.and_then(|edge| child_of(nodes, edges, at, edge));
                if is_hash {
                    // `#` takes one more word
                    reach(nodes, *step, next, at);
                }
                if let Some(child) = child {
                    reach(nodes, *step, next, child);
                }
                if star != NONE {
                    reach(nodes, *step, next, star);
                }
            }
            std::mem::swap(now, next);
            nodes_met = nodes_met.saturating_add(now.len() as u32);
            if now.is_empty() {
                return nodes_met;
            }
        }
        for &at in now.iter() {
            nodes[at as usize].leaf.iter().for_each(|t| sink(t.node));
        }
        nodes_met
    }
}

/// The child of a node by a literal word.
fn child_of(nodes: &[TrieNode], edges: &Map<(u32, Edge), u32>, at: u32, edge: Edge) -> Option<u32> {
    let words = nodes[at as usize].words;
    match words.only() {
        Some(only) => (nodes[only as usize].edge == edge).then_some(only),
        None if words == Words::ABSENT => None,
        None => edges.get(&(at, edge)).copied(),
    }
}

/// How a node of that word hangs on its parent, if there may be one.
fn edge_of(words: &Map<Box<str>, (u32, u32)>, word: &str) -> Option<Edge> {
    Edge::short(word).or_else(|| words.get(word).map(|(number, _)| Edge::numbered(*number)))
}

/// The words of a key. The empty key has none (RabbitMQ `rabbit_exchange_type_topic:split_topic_key`); elsewhere empty
/// words count.
fn words_of(key: &str) -> impl Iterator<Item = &str> {
    key.split('.').take(if key.is_empty() { 0 } else { usize::MAX })
}

/// Adds a node to the live ones of a step, and the `#` below it, which may stand for no word at all.
fn reach(nodes: &mut [TrieNode], step: u64, live: &mut Vec<u32>, mut at: u32) {
    while at != NONE {
        let node = &mut nodes[at as usize];
        if node.mark == step {
            return;
        }
        node.mark = step;
        live.push(at);
        at = node.hash;
    }
}

#[cfg(test)]
mod tests {
    use super::super::Target;
    use super::*;
    use hornpipe_types::names::ShortStr;
    use hornpipe_types::table::FieldTable;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn put(t: &mut Topic, key: &str, binding: u32) -> Place {
        let (key, none, arguments) = (ShortStr::new(key), ShortStr::default(), FieldTable::default());
        let target = Target { node: Node::Queue(binding), binding };
        t.insert(BindingRef { target, key: &key, arguments: &arguments, destination: &none, seq: 0 })
    }
    fn get(t: &mut Topic, key: &str) -> BTreeSet<u32> {
        let mut out = Vec::new();
        t.select_key(key, &mut |n| {
            if let Node::Queue(q) = n {
                out.push(q);
            }
        });
        let set: BTreeSet<u32> = out.iter().copied().collect();
        assert_eq!(set.len(), out.len(), "each binding at most once for a key");
        set
    }
    fn naive(pattern: &[&str], words: &[&str]) -> bool {
        match pattern.split_first() {
            None => words.is_empty(),
            Some((&"#", rest)) => (0..=words.len()).any(|n| naive(rest, &words[n..])),
            Some((&p, rest)) => words.first().is_some_and(|w| p == "*" || p == *w) && naive(rest, &words[1..]),
        }
    }
    fn naive_key(pattern: &str, key: &str) -> bool {
        naive(&words_of(pattern).collect::<Vec<_>>(), &words_of(key).collect::<Vec<_>>())
    }

    #[test]
    fn table_of_patterns() {
        for (pattern, key, expected) in [
            ("a.b.c", "a.b.c", true),
            ("a.b.c", "a.b", false),
            ("*.b.c", "a.b.c", true),
            ("a.*", "a", false),
            ("a.*", "a.", true),
            ("a.*", "a.b.c", false),
            ("#", "", true),
            ("#", "a.b.c", true),
            ("*", "", false),
            ("", "", true),
            ("", "a", false),
            ("", ".", false),
            ("*.*", ".", true),
            ("a.#", "a", true),
            ("a.#", "a.b.c", true),
            ("a.#", "b", false),
            ("#.c", "c", true),
            ("#.c", "a.b.c", true),
            ("#.c", "a.c.b", false),
            ("#.b.#", "a.b.c", true),
            ("#.b.#", "b", true),
            ("#.b.#", "a.c", false),
            ("#.#", "", true),
            ("*.#", "a", true),
            ("#.*", "a.b", true),
            ("a..b", "a..b", true),
            ("a.*.b", "a..b", true),
            ("a#", "a#", true),
            ("a#", "ab", false),
            ("a.sixteen-octets--", "a.sixteen-octets--", true),
            ("a.sixteen-octets--", "a.sixteen-octets-", false),
            ("a.fifteen-octets-", "a.fifteen-octets-", true),
            ("a.fifteen-octets-", "a.fifteen-octets-a", false),
            ("a.\0", "a.", false),
        ] {
            let mut t = Topic::default();
            let place = put(&mut t, pattern, 1);
            assert_eq!(!get(&mut t, key).is_empty(), expected, "{pattern} {key}");
            assert_eq!(naive_key(pattern, key), expected, "naive {pattern} {key}");
            t.remove(place);
            assert!(get(&mut t, key).is_empty());
        }
    }

    #[test]
    fn too_many_hashes() {
        assert_eq!(check_key("#.a.#"), Ok(()));
        assert_eq!(check_key("a#.#b.##"), Ok(()));
        assert_eq!(
            check_key("#.a.#.b.#").map_err(|e| e.text),
            Err("Topic binding key '#.a.#.b.#' uses 3 '#' wildcards, at most 2 are allowed".into())
        );
    }

    #[test]
    fn many_hashes_stay_cheap() {
        // such keys are refused, but a record from elsewhere must not stall the broker either
        let mut t = Topic::default();
        put(&mut t, "#.a.#.a.#.a.#.a.#.a.#.a.#.a.#.b", 1);
        let key = vec!["a"; 120].join(".");
        assert!(get(&mut t, &key).is_empty());
        assert_eq!(get(&mut t, &(key + ".b")).len(), 1);
    }

    fn word() -> impl Strategy<Value = &'static str> {
        // as long as a short word may be, and longer
        prop::sample::select(vec!["a", "b", "c", "", "fifteen-octets-", "sixteen-octets--", "sixteen-octets-"])
    }
    /// Patterns, and whether each stays; those without `#` are walked in another way.
    fn patterns(with_hash: bool) -> impl Strategy<Value = Vec<(String, bool)>> {
        let hash = if with_hash { "#" } else { "*" };
        let words = prop::collection::vec(prop_oneof![3 => word(), 1 => Just("*"), 1 => Just(hash)], 1..6);
        prop::collection::vec((words.prop_map(|w| w.join(".")), any::<bool>()), 1..30)
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_matcher(
            patterns in any::<bool>().prop_flat_map(patterns),
            keys in prop::collection::vec(prop::collection::vec(word(), 1..6).prop_map(|w| w.join(".")), 1..20),
        ) {
            let mut t = Topic::default();
            let mut places: Vec<Place> =
                patterns.iter().enumerate().map(|(i, (p, _))| put(&mut t, p, i as u32)).collect();
            for round in 0..2 {
                for key in &keys {
                    let expected: BTreeSet<u32> = patterns
                        .iter()
                        .enumerate()
                        .filter(|(_, (p, stays))| (round == 0 || *stays) && naive_key(p, key))
                        .map(|(i, _)| i as u32)
                        .collect();
                    prop_assert_eq!(get(&mut t, key), expected, "{}", key);
                }
                if round == 0 {
                    for i in 0..patterns.len() {
                        if !patterns[i].1 {
                            let place = places[i];
                            if let Some(moved) = t.remove(place) {
                                places[moved as usize] = place;
                            }
                        }
                    }
                }
            }
            // with everything gone nothing is left behind
            for i in 0..patterns.len() {
                if patterns[i].1 {
                    let place = places[i];
                    if let Some(moved) = t.remove(place) {
                        places[moved as usize] = place;
                    }
                }
            }
            prop_assert!(t.words.is_empty() && t.edges.is_empty() && t.hashes == 0);
            prop_assert_eq!(t.free_nodes.len() + 1, t.nodes.len());
            prop_assert_eq!(t.free_words.len(), t.texts.len());
        }
    }
}
