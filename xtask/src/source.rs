//! Rust files as tokens with their lines, without comments and tests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// A file, and the tokens of it that are compiled into the library.
pub struct Source {
    /// Relative to the root of the repository.
    pub path: PathBuf,
    pub text: String,
    pub tokens: Vec<TokenTree>,
}

impl Source {
    /// Reads the tokens of a file.
    ///
    /// # Errors
    ///
    /// The text is not Rust.
    pub fn parse(path: PathBuf, text: String) -> Result<Self, String> {
        let tokens: TokenStream = text
            .parse()
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let tokens = tokens.into_iter().collect();
        Ok(Self { path, text, tokens })
    }

    /// The same file without tests and comments.
    pub fn code(&self) -> Vec<TokenTree> {
        code(&self.tokens)
    }

    /// How many lines hold code: neither blank, nor comment, nor test.
    pub fn lines(&self) -> usize {
        let blank: Vec<bool> = self
            .text
            .lines()
            .map(|line| line.trim().is_empty())
            .collect();
        let mut lines = BTreeSet::new();
        each(&self.code(), &mut |token| {
            let span = token.span();
            lines.extend(span.start().line..=span.end().line);
        });
        lines.retain(|line| !blank.get(line - 1).copied().unwrap_or(true));
        lines.len()
    }

    /// The modules that this file has for its tests: `#[cfg(test)] mod tests;`.
    pub fn test_modules(&self) -> Vec<String> {
        let kept = modules(&self.code());
        let all = modules(&self.tokens);
        all.into_iter()
            .filter(|name| !kept.contains(name))
            .collect()
    }

    /// The functions with `#[test]` or `#[tokio::test]`, and their lines.
    pub fn tests(&self) -> Vec<(String, usize)> {
        let mut found = Vec::new();
        tests(&self.tokens, &mut found);
        found
    }
}

/// The path of the module that a file is, from the root of its crate.
pub fn module(path: &Path) -> Vec<String> {
    let mut parts: Vec<String> = path
        .with_extension("")
        .iter()
        .skip(1)
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib")) {
        parts.pop();
    }
    parts
}

/// All Rust files below `directory`, in order.
///
/// # Errors
///
/// A file that cannot be read, or is not Rust.
pub fn read(root: &Path, directory: &str) -> Result<Vec<Source>, String> {
    let mut paths = Vec::new();
    walk(&root.join(directory), &mut paths).map_err(|error| format!("{directory}: {error}"))?;
    paths.sort();
    let read = |path: PathBuf| {
        let text =
            fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let path = path.strip_prefix(root).unwrap_or(&path).to_owned();
        Source::parse(path, text)
    };
    paths.into_iter().map(read).collect()
}

fn walk(directory: &Path, paths: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                walk(&path, paths)?;
            }
        } else if name.ends_with(".rs") {
            paths.push(path);
        }
    }
    Ok(())
}

/// Calls `visit` for each token but groups, and for the delimiters of these.
pub fn each(tokens: &[TokenTree], visit: &mut impl FnMut(TokenTree)) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => {
                for span in [group.span_open(), group.span_close()] {
                    let mut delimiter = proc_macro2::Punct::new('.', proc_macro2::Spacing::Alone);
                    delimiter.set_span(span);
                    visit(delimiter.into());
                }
                each(&inside(group), visit);
            }
            token => visit(token.clone()),
        }
    }
}

/// The tokens of a group.
pub fn inside(group: &Group) -> Vec<TokenTree> {
    group.stream().into_iter().collect()
}

pub fn is_punct(token: Option<&TokenTree>, char: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == char)
}

pub fn ident(token: Option<&TokenTree>) -> Option<String> {
    match token {
        Some(TokenTree::Ident(ident)) => Some(ident.to_string()),
        _ => None,
    }
}

/// The attribute at `at`, if there is one, and where it ends.
fn attribute(tokens: &[TokenTree], at: usize) -> Option<(Vec<TokenTree>, usize)> {
    if !is_punct(tokens.get(at), '#') {
        return None;
    }
    let at = at + 1 + usize::from(is_punct(tokens.get(at + 1), '!'));
    match tokens.get(at) {
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Bracket => {
            Some((inside(group), at + 1))
        }
        _ => None,
    }
}

/// `tokens` without documentation and without what is compiled for tests alone.
fn code(tokens: &[TokenTree]) -> Vec<TokenTree> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if let Some((content, end)) = attribute(tokens, at) {
            let name = ident(content.first()).unwrap_or_default();
            if name == "cfg" && !compiled(&content[1..]) {
                at = end_of_item(tokens, end);
            } else {
                if name != "doc" {
                    kept.extend_from_slice(&tokens[at..end]);
                }
                at = end;
            }
            continue;
        }
        kept.push(match &tokens[at] {
            TokenTree::Group(group) => {
                let mut inner = Group::new(
                    group.delimiter(),
                    code(&inside(group)).into_iter().collect(),
                );
                inner.set_span(group.span());
                inner.into()
            }
            token => token.clone(),
        });
        at += 1;
    }
    kept
}

/// Whether `(test)`, `(all(test, unix))`, .. holds in a library with all features.
fn compiled(predicate: &[TokenTree]) -> bool {
    match predicate.first() {
        Some(TokenTree::Group(group)) => holds(&inside(group)),
        _ => true,
    }
}

fn holds(predicate: &[TokenTree]) -> bool {
    let name = ident(predicate.first()).unwrap_or_default();
    let Some(TokenTree::Group(group)) = predicate.get(1) else {
        return !matches!(name.as_str(), "test" | "doctest" | "fuzzing");
    };
    let list = inside(group);
    let mut each = list.split(|token| is_punct(Some(token), ','));
    match name.as_str() {
        "any" => each.any(holds),
        "not" => !holds(&list),
        _ => each.filter(|each| !each.is_empty()).all(holds),
    }
}

/// Where the item, field or statement that begins at `at` ends.
fn end_of_item(tokens: &[TokenTree], mut at: usize) -> usize {
    while let Some((_, end)) = attribute(tokens, at) {
        at = end;
    }
    let mut first = at;
    if ident(tokens.get(first)).as_deref() == Some("pub") {
        first += 1;
        first += usize::from(matches!(tokens.get(first), Some(TokenTree::Group(_))));
    }
    let (ends_with_comma, ends_with_braces) = match ident(tokens.get(first)).as_deref() {
        Some("use" | "static" | "type" | "let" | "extern") => (false, false),
        Some("const") if ident(tokens.get(first + 1)).as_deref() != Some("fn") => (false, false),
        Some(
            "fn" | "const" | "async" | "unsafe" | "mod" | "struct" | "enum" | "union" | "impl"
            | "trait" | "macro_rules",
        ) => (false, true),
        _ => (true, true),
    };
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token {
            TokenTree::Punct(punct) if punct.as_char() == ';' => break,
            TokenTree::Punct(punct) if punct.as_char() == ',' && ends_with_comma => break,
            TokenTree::Group(group)
                if group.delimiter() == Delimiter::Brace && ends_with_braces =>
            {
                // `Variant { .. },` has its comma behind the braces.
                at += usize::from(ends_with_comma && is_punct(tokens.get(at), ','));
                break;
            }
            _ => {}
        }
    }
    at
}

/// The modules that have files of their own: `mod name;`.
fn modules(tokens: &[TokenTree]) -> Vec<String> {
    let declared = tokens.windows(3).filter(|three| {
        ident(three.first()).as_deref() == Some("mod") && is_punct(three.last(), ';')
    });
    declared.filter_map(|three| ident(three.get(1))).collect()
}

fn tests(tokens: &[TokenTree], found: &mut Vec<(String, usize)>) {
    let mut marked = false;
    let mut at = 0;
    while at < tokens.len() {
        if let Some((content, end)) = attribute(tokens, at) {
            let mut path = content.iter().map_while(|token| match token {
                TokenTree::Group(_) => None,
                token => Some(token.to_string()),
            });
            marked |= path.by_ref().last().as_deref() == Some("test");
            at = end;
            continue;
        }
        match &tokens[at] {
            TokenTree::Ident(word) if *word == "fn" => {
                if let Some(TokenTree::Ident(name)) = tokens.get(at + 1)
                    && marked
                {
                    found.push((name.to_string(), name.span().start().line));
                }
                marked = false;
            }
            TokenTree::Group(group) => tests(&inside(group), found),
            _ => {}
        }
        at += 1;
    }
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::parse("src/a.rs".into(), text.into()).expect("Rust")
    }

    #[test]
    fn comments_and_blank_lines_do_not_count() {
        let text = "//! A.\n\n/// B.\nfn b() {\n    // c\n    let _ = \"x\n\n  // y\";\n}\n";
        assert_eq!(source(text).lines(), 4);
    }

    #[test]
    fn tests_do_not_count() {
        for test in [
            "#[cfg(test)]\nmod tests {\n fn a() {}\n}\n",
            "#[cfg(all(test, unix))]\n#[allow(unused)]\nuse a::{b, c};\n",
            "#[cfg(any(test, fuzzing))]\npub(crate) const A: [u8; 2] = [1, 2];\n",
        ] {
            assert_eq!(source(&format!("{test}fn b() {{}}\n")).lines(), 1, "{test}");
        }
        let field = "struct A {\n #[cfg(test)]\n a: u8,\n b: u8,\n}\n";
        assert_eq!(source(field).lines(), 3);
    }

    #[test]
    fn code_under_a_feature_counts() {
        let text = "#[cfg(any(test, feature = \"a\"))]\nfn a() {}\n#[cfg(not(test))]\nfn b() {}\n";
        assert_eq!(source(text).lines(), 4);
    }

    #[test]
    fn a_test_module_has_its_file_left_out() {
        let text = "mod a;\n#[cfg(test)]\nmod tests;\n";
        assert_eq!(source(text).test_modules(), ["tests"]);
    }

    #[test]
    fn tests_are_found_in_modules() {
        let text = "#[test]\nfn a() {}\nfn b() {}\nmod c {\n#[tokio::test(flavor = \"x\")]\n\
                    #[ignore]\nasync fn d() {}\n}\n";
        let names = [("a".to_owned(), 2), ("d".to_owned(), 7)];
        assert_eq!(source(text).tests(), names);
    }

    #[test]
    fn a_file_is_named_by_its_module() {
        assert_eq!(module(Path::new("src/a/mod.rs")), ["a"]);
        assert_eq!(module(Path::new("src/a/b.rs")), ["a", "b"]);
        assert!(module(Path::new("src/lib.rs")).is_empty());
    }
}
