//! Which module of `src/` uses which: imports and paths, re-exports seen through.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use proc_macro2::TokenTree;

use crate::source::{Source, ident, inside, is_punct, module};

/// The path of a module or item from the root of the crate.
type Name = Vec<String>;

/// One module uses another.
pub struct Use {
    pub from: Name,
    pub to: Name,
    pub path: PathBuf,
    pub line: usize,
}

/// All modules and what each uses.
pub struct Graph {
    pub uses: Vec<Use>,
    modules: BTreeSet<Name>,
}

/// A path as it is written, from the root of the crate.
struct Written {
    path: Name,
    line: usize,
    /// What it is called from now on, if it is imported.
    alias: Option<String>,
}

impl Graph {
    pub fn new(sources: &[Source]) -> Self {
        let modules: BTreeSet<Name> = sources.iter().map(|source| module(&source.path)).collect();
        let mut written = Vec::new();
        for source in sources {
            let from = module(&source.path);
            let mut paths = Vec::new();
            collect(&source.code(), &from, &modules, &mut paths);
            written.push((source, from, paths));
        }
        let mut imported: BTreeMap<Name, Name> = BTreeMap::new();
        for (_, from, paths) in &written {
            for one in paths {
                if let Some(alias) = &one.alias {
                    imported.insert(joined(from, alias), one.path.clone());
                }
            }
        }
        let mut uses = Vec::new();
        for (source, from, paths) in &written {
            for one in paths {
                uses.push(Use {
                    from: from.clone(),
                    to: resolve(&one.path, &modules, &imported),
                    path: source.path.clone(),
                    line: one.line,
                });
            }
        }
        Self { uses, modules }
    }

    /// The modules directly below `parent`.
    pub fn children(&self, parent: &[String]) -> BTreeSet<String> {
        let below = self.modules.iter().filter(|name| name.starts_with(parent));
        below
            .filter_map(|name| name.get(parent.len()).cloned())
            .collect()
    }

    /// The modules that have others below them.
    pub fn parents(&self) -> BTreeSet<Name> {
        let all = self.modules.iter().filter(|name| !name.is_empty());
        let mut parents: BTreeSet<Name> = all.map(|name| name[..name.len() - 1].to_vec()).collect();
        parents.insert(Vec::new());
        parents
    }

    /// Between the modules directly below `parent`: who uses whom, first where.
    pub fn between(&self, parent: &[String]) -> BTreeMap<(String, String), &Use> {
        let mut found = BTreeMap::new();
        for one in &self.uses {
            if !one.from.starts_with(parent) || !one.to.starts_with(parent) {
                continue;
            }
            if let (Some(from), Some(to)) = (one.from.get(parent.len()), one.to.get(parent.len()))
                && from != to
            {
                found.entry((from.clone(), to.clone())).or_insert(one);
            }
        }
        found
    }
}

/// The circles, the shortest first. No two share a use: what mends one mends no other.
pub fn circles(edges: &BTreeSet<(String, String)>) -> Vec<Vec<String>> {
    let mut edges = edges.clone();
    let mut found = Vec::new();
    loop {
        let around = edges.iter().filter_map(|(from, to)| {
            let mut circle = way(&edges, to, from)?;
            circle.insert(0, from.clone());
            Some(circle)
        });
        let Some(circle) = around.min_by_key(Vec::len) else {
            return found;
        };
        for pair in circle.windows(2) {
            edges.remove(&(pair[0].clone(), pair[1].clone()));
        }
        found.push(circle);
    }
}

/// The shortest way.
fn way(edges: &BTreeSet<(String, String)>, from: &str, to: &str) -> Option<Vec<String>> {
    let mut ways = vec![vec![from.to_owned()]];
    let mut seen = BTreeSet::from([from.to_owned()]);
    let mut next = 0;
    while next < ways.len() {
        let way = ways[next].clone();
        let last = way.last().expect("never empty");
        if last == to {
            return Some(way);
        }
        for (_, next) in edges.iter().filter(|(start, _)| start == last) {
            if seen.insert(next.clone()) {
                ways.push(joined(&way, next));
            }
        }
        next += 1;
    }
    None
}

fn joined(path: &[String], name: &str) -> Name {
    let mut path = path.to_vec();
    path.push(name.to_owned());
    path
}

/// The module that a path leads to: its own, or that of what is re-exported there.
fn resolve(path: &[String], modules: &BTreeSet<Name>, imported: &BTreeMap<Name, Name>) -> Name {
    let mut path = path.to_vec();
    // A re-export of a re-export, and so on; an end, should they go in circles.
    for _ in 0..8 {
        let mut module = Name::new();
        let mut rest = path.iter();
        let mut seen_through = None;
        for name in rest.by_ref() {
            let below = joined(&module, name);
            if modules.contains(&below) {
                module = below;
            } else {
                seen_through = imported.get(&below).cloned();
                break;
            }
        }
        match seen_through {
            Some(mut target) if target != path => {
                target.extend(rest.cloned());
                path = target;
            }
            _ => return module,
        }
    }
    path
}

/// The paths in `tokens` that begin with `crate`, `super`, `self` or a module below `here`.
fn collect(
    tokens: &[TokenTree],
    here: &[String],
    modules: &BTreeSet<Name>,
    paths: &mut Vec<Written>,
) {
    let mut at = 0;
    while at < tokens.len() {
        let word = ident(tokens.get(at));
        match word.as_deref() {
            // `pub(super)` and `pub(in crate::a)` use nothing.
            Some("pub") if matches!(tokens.get(at + 1), Some(TokenTree::Group(_))) => at += 2,
            Some("use") => {
                let end = at
                    + tokens[at..]
                        .iter()
                        .position(|one| is_punct(Some(one), ';'))
                        .unwrap_or(tokens.len() - at);
                tree(&tokens[at + 1..end], None, here, modules, paths);
                at = end;
            }
            Some("mod") if matches!(tokens.get(at + 2), Some(TokenTree::Group(_))) => {
                if let (Some(name), Some(TokenTree::Group(group))) =
                    (ident(tokens.get(at + 1)), tokens.get(at + 2))
                {
                    collect(&inside(group), &joined(here, &name), modules, paths);
                }
                at += 3;
            }
            Some(_) if is_path(tokens, at + 1) => {
                let end = end_of_path(tokens, at);
                if at < 2 || !is_path(tokens, at - 2) {
                    let line = tokens[at].span().start().line;
                    let names: Vec<_> = tokens[at..end]
                        .iter()
                        .filter_map(|one| ident(Some(one)))
                        .collect();
                    if let Some(path) = absolute(&names, here, modules) {
                        paths.push(Written {
                            path,
                            line,
                            alias: None,
                        });
                    }
                }
                at = end;
            }
            _ => {
                if let TokenTree::Group(group) = &tokens[at] {
                    collect(&inside(group), here, modules, paths);
                }
                at += 1;
            }
        }
    }
}

fn is_path(tokens: &[TokenTree], at: usize) -> bool {
    is_punct(tokens.get(at), ':') && is_punct(tokens.get(at + 1), ':')
}

fn end_of_path(tokens: &[TokenTree], mut at: usize) -> usize {
    at += 1;
    while is_path(tokens, at) && ident(tokens.get(at + 2)).is_some() {
        at += 3;
    }
    at
}

/// The tree of a `use`, below `before`.
fn tree(
    tokens: &[TokenTree],
    before: Option<&[String]>,
    here: &[String],
    modules: &BTreeSet<Name>,
    paths: &mut Vec<Written>,
) {
    for one in tokens.split(|token| is_punct(Some(token), ',')) {
        let Some(first) = one.first() else { continue };
        let line = first.span().start().line;
        let end = end_of_path(one, 0);
        let mut names: Vec<_> = one[..end]
            .iter()
            .filter_map(|one| ident(Some(one)))
            .collect();
        let full = match before {
            Some(before) => {
                names.retain(|name| name != "self");
                Some([before, &names].concat())
            }
            None => absolute(&names, here, modules),
        };
        let Some(path) = full else { continue };
        match one.last() {
            Some(TokenTree::Group(group)) => {
                tree(&inside(group), Some(&path), here, modules, paths);
            }
            last => {
                let renamed = ident(one.get(end)).as_deref() == Some("as");
                let alias = if renamed {
                    ident(last)
                } else {
                    path.last().cloned()
                };
                paths.push(Written { path, line, alias });
            }
        }
    }
}

/// `names`, written in `here`, from the root of the crate; `None` for other crates and for
/// what is named without a path.
fn absolute(names: &[String], here: &[String], modules: &BTreeSet<Name>) -> Option<Name> {
    let mut up = here.to_vec();
    let mut rest = names;
    match names.first()?.as_str() {
        "crate" => {
            up.clear();
            rest = &names[1..];
        }
        "self" => rest = &names[1..],
        "super" => {
            while rest.first().is_some_and(|name| name == "super") {
                up.pop();
                rest = &rest[1..];
            }
        }
        name if !modules.contains(&joined(here, name)) => return None,
        _ => {}
    }
    up.extend_from_slice(rest);
    Some(up)
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    fn graph(files: &[(&str, &str)]) -> Graph {
        let sources: Vec<_> = files
            .iter()
            .map(|(path, text)| Source::parse(path.into(), (*text).to_owned()).expect("Rust"))
            .collect();
        Graph::new(&sources)
    }

    fn edges(graph: &Graph, parent: &[String]) -> Vec<String> {
        let between = graph.between(parent);
        between
            .iter()
            .map(|((from, to), one)| format!("{from}->{to}:{}", one.line))
            .collect()
    }

    #[test]
    fn imports_and_paths_are_uses() {
        let graph = graph(&[
            ("src/lib.rs", "mod a; mod b; mod c; mod d;"),
            (
                "src/a.rs",
                "use crate::{b::{self, X}, c as e};\nfn f() { crate::d::g(); }",
            ),
            ("src/b.rs", "pub struct X;"),
            ("src/c.rs", "pub(in crate::d) fn f() { std::d::f(); }"),
            ("src/d.rs", ""),
        ]);
        assert_eq!(edges(&graph, &[]), ["a->b:1", "a->c:1", "a->d:2"]);
    }

    #[test]
    fn reexports_are_seen_through() {
        let graph = graph(&[
            ("src/lib.rs", "mod a; mod b; mod c; pub use b::{X as Y};"),
            ("src/a.rs", "use crate::Y;\nuse crate::c::Z;"),
            ("src/b.rs", "pub struct X;"),
            ("src/c.rs", "pub use super::b::X as Z;"),
        ]);
        assert_eq!(edges(&graph, &[]), ["a->b:1", "c->b:1"]);
    }

    #[test]
    fn tests_use_nothing() {
        let graph = graph(&[
            ("src/lib.rs", ""),
            ("src/a.rs", "#[cfg(test)]\nuse crate::b::X;"),
            ("src/b.rs", ""),
        ]);
        assert!(graph.uses.is_empty());
    }

    #[test]
    fn siblings_are_reached_by_super() {
        let graph = graph(&[
            ("src/a/mod.rs", "mod b; mod c; use b::X;"),
            ("src/a/b.rs", "fn f() { super::c::g() }"),
            ("src/a/c.rs", "use super::X;"),
        ]);
        let parent = ["a".to_owned()];
        assert_eq!(edges(&graph, &parent), ["b->c:1", "c->b:1"]);
    }

    #[test]
    fn a_circle_is_found_once() {
        let edge = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        let mut edges = BTreeSet::from([edge("a", "b"), edge("b", "c"), edge("d", "a")]);
        assert!(circles(&edges).is_empty());
        edges.insert(edge("c", "a"));
        assert_eq!(circles(&edges), [["a", "b", "c", "a"]]);
        edges.insert(edge("b", "a"));
        assert_eq!(circles(&edges), [["a", "b", "a"]]);
    }
}
