//! Splits SQL into statements as psql does (its `psqlscan.l`; manual, section 4.1 "Lexical
//! Structure"): at semicolons outside of strings, comments, parentheses and function bodies.
//! Skips the data of `COPY .. FROM STDIN`.
//!
//! A backslash is an escape only in `E'..'`, as with `standard_conforming_strings`.

/// The statements and comments of a text.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Split<'a> {
    /// The statements, in order.
    pub statements: Vec<Statement<'a>>,
    /// The comments, in order.
    pub comments: Vec<Comment<'a>>,
}

/// A statement.
#[derive(Debug, PartialEq, Eq)]
pub struct Statement<'a> {
    /// The text from its first token to its last.
    pub text: &'a str,
    /// The line at which it begins, from 1.
    pub line: usize,
    /// The column at which it begins, in characters from 1.
    pub column: usize,
    /// Its tokens.
    pub tokens: Vec<Token<'a>>,
}

/// A token of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token<'a> {
    /// A keyword or an unquoted name.
    Word(&'a str),
    /// A quoted name, without its quotes.
    Quoted(&'a str),
    /// A string.
    Literal,
    /// Any other character.
    Other(char),
}

impl Token<'_> {
    /// Returns whether it is this keyword.
    pub fn is(&self, keyword: &str) -> bool {
        matches!(self, Token::Word(word) if word.eq_ignore_ascii_case(keyword))
    }
}

/// A comment.
#[derive(Debug, PartialEq, Eq)]
pub struct Comment<'a> {
    /// The text without the comment's delimiters.
    pub text: &'a str,
    /// The line at which it begins, from 1.
    pub line: usize,
    /// The number of statements that end before it.
    pub after: usize,
    /// Whether the last of them ends in the same line.
    pub same_line: bool,
}

/// An error of [`split`].
#[derive(Debug, PartialEq, Eq)]
pub struct SplitError {
    /// The line of the error, from 1.
    pub line: usize,
    /// The column of the error, in characters from 1.
    pub column: usize,
    /// The message, in one line.
    pub message: String,
    /// Whether a string, a name or a comment is unterminated.
    pub is_unterminated: bool,
}

/// Splits `text` into statements.
///
/// # Errors
///
/// Fails if a string, a name or a comment is unterminated, or at a psql command.
pub fn split(text: &str) -> Result<Split<'_>, SplitError> {
    let mut splitter = Splitter::new(text);
    while let Some(next) = splitter.rest().chars().next() {
        splitter.take(next)?;
    }
    splitter.end(text.len());
    Ok(splitter.found)
}

struct Splitter<'a> {
    text: &'a str,
    at: usize,
    /// The positions at which lines begin.
    lines: Vec<usize>,
    found: Split<'a>,
    /// The current statement: its begin, the end of its last token, and its tokens.
    begin: Option<usize>,
    last: usize,
    tokens: Vec<Token<'a>>,
    parentheses: usize,
    /// The nesting depth in a function body (BEGIN ATOMIC .. END).
    body: usize,
    /// The line of the last semicolon.
    ended: usize,
    /// Whether the data of COPY begins in the next line.
    copies: bool,
}

impl<'a> Splitter<'a> {
    fn new(text: &'a str) -> Self {
        let breaks = text.match_indices('\n').map(|(at, _)| at + 1);
        Splitter {
            text,
            at: if text.starts_with(BOM) {
                BOM.len_utf8()
            } else {
                0
            },
            lines: std::iter::once(0).chain(breaks).collect(),
            found: Split::default(),
            begin: None,
            last: 0,
            tokens: Vec::new(),
            parentheses: 0,
            body: 0,
            ended: 0,
            copies: false,
        }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn take(&mut self, next: char) -> Result<(), SplitError> {
        let (start, rest) = (self.at, self.rest());
        match next {
            '\n' if self.copies => self.pass_data(),
            _ if is_blank(next) => self.at += next.len_utf8(),
            '-' if rest.starts_with("--") => {
                let end = rest.find(['\n', '\r']).unwrap_or(rest.len());
                self.comment(start, &rest[2..end], end);
            }
            '/' if rest.starts_with("/*") => {
                let end = comment_end(rest).ok_or_else(|| self.open(start, "comment"))?;
                self.comment(start, &rest[2..end - 2], end);
            }
            '\'' => {
                let end = string_end(rest, false).ok_or_else(|| self.open(start, "string"))?;
                self.token(start, end, Token::Literal);
            }
            '"' => {
                let end = string_end(rest, false).ok_or_else(|| self.open(start, "name"))?;
                self.token(start, end, Token::Quoted(&rest[1..end - 1]));
            }
            '$' => match dollar_end(rest) {
                Some(Some(end)) => self.token(start, end, Token::Literal),
                Some(None) => return Err(self.open(start, "string")),
                None => self.token(start, 1, Token::Other(next)),
            },
            ';' if self.parentheses == 0 && self.body == 0 => {
                self.end(start);
                self.ended = self.place(start).0;
                self.at += 1;
            }
            '\\' => return Err(self.command(start, rest)),
            _ if starts_word(next) => self.word(start, rest)?,
            _ => {
                match next {
                    '(' => self.parentheses += 1,
                    ')' => self.parentheses = self.parentheses.saturating_sub(1),
                    _ => {}
                }
                self.token(start, next.len_utf8(), Token::Other(next));
            }
        }
        Ok(())
    }

    fn word(&mut self, start: usize, rest: &'a str) -> Result<(), SplitError> {
        let end = rest.find(|c| !continues_word(c)).unwrap_or(rest.len());
        let word = &rest[..end];
        // Only in E'..' is a backslash an escape.
        if word.eq_ignore_ascii_case("e") && rest[end..].starts_with('\'') {
            let string = string_end(&rest[end..], true);
            let string = string.ok_or_else(|| self.open(start, "string"))?;
            self.token(start, end + string, Token::Literal);
            return Ok(());
        }
        let token = Token::Word(word);
        if self.body > 0 {
            if token.is("case") {
                self.body += 1;
            } else if token.is("end") {
                self.body -= 1;
            }
        } else if token.is("atomic") && self.tokens.last().is_some_and(|last| last.is("begin")) {
            self.body = 1;
        }
        self.token(start, end, token);
        Ok(())
    }

    fn token(&mut self, start: usize, len: usize, token: Token<'a>) {
        self.begin.get_or_insert(start);
        self.tokens.push(token);
        self.at = start + len;
        self.last = self.at;
    }

    fn comment(&mut self, start: usize, text: &'a str, len: usize) {
        let line = self.place(start).0;
        self.found.comments.push(Comment {
            text,
            line,
            after: self.found.statements.len(),
            same_line: self.begin.is_none() && self.ended == line,
        });
        self.at = start + len;
    }

    fn end(&mut self, at: usize) {
        let tokens = std::mem::take(&mut self.tokens);
        (self.parentheses, self.body) = (0, 0);
        let Some(begin) = self.begin.take() else {
            return;
        };
        let reads = |pair: &[Token<'_>]| pair[0].is("from") && pair[1].is("stdin");
        // Without a semicolon, no data follows.
        self.copies = at < self.text.len()
            && tokens.first().is_some_and(|first| first.is("copy"))
            && tokens.windows(2).any(reads);
        let (line, column) = self.place(begin);
        self.found.statements.push(Statement {
            text: &self.text[begin..self.last],
            line,
            column,
            tokens,
        });
    }

    /// Skips the data of COPY, up to the line `\.`.
    fn pass_data(&mut self) {
        self.copies = false;
        self.at += 1;
        for line in self.rest().split_inclusive('\n') {
            self.at += line.len();
            if line.trim_end_matches(['\n', '\r']) == r"\." {
                break;
            }
        }
    }

    /// Returns line and column, from 1.
    fn place(&self, at: usize) -> (usize, usize) {
        let line = self.lines.partition_point(|&start| start <= at);
        let before = &self.text[self.lines[line - 1]..at];
        let column = before.trim_start_matches(BOM).chars().count() + 1;
        (line, column)
    }

    fn open(&self, start: usize, what: &str) -> SplitError {
        let (line, column) = self.place(start);
        SplitError {
            line,
            column,
            message: format!("unterminated {what}"),
            is_unterminated: true,
        }
    }

    fn command(&self, start: usize, rest: &str) -> SplitError {
        let (line, column) = self.place(start);
        // A name that is not a word is a single character: `\.`, `\;`, `\!`.
        let name = &rest[1..];
        let end = name.find(|c: char| !c.is_ascii_alphabetic());
        let end = match end.unwrap_or(name.len()) {
            0 => name.chars().next().map_or(0, char::len_utf8),
            end => end,
        };
        let name = name[..end].trim();
        SplitError {
            line,
            column,
            message: format!(
                "`\\{name}` is a psql command, which the server does not support: use SQL, or run \
                 the file with psql"
            ),
            is_unterminated: false,
        }
    }
}

/// The byte order mark, which some editors write at the beginning of a file.
const BOM: char = '\u{feff}';

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{b}' | '\u{c}')
}

fn starts_word(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

fn continues_word(c: char) -> bool {
    starts_word(c) || c.is_ascii_digit() || c == '$'
}

/// Returns the end of a string or a quoted name. A doubled quote is part of it; an `E'..'`
/// string may continue after a line break.
fn string_end(text: &str, escapes: bool) -> Option<usize> {
    let quote = text.chars().next()?;
    let mut from = quote.len_utf8();
    loop {
        let at = from + text[from..].find([quote, '\\'])?;
        from = at + 1;
        if text[at..].starts_with('\\') {
            if escapes {
                from += text[from..].chars().next()?.len_utf8();
            }
            continue;
        }
        let after = &text[from..];
        let next = after.trim_start_matches(is_blank);
        let gap = &after[..after.len() - next.len()];
        // Without escapes, a continuation can be read as another string.
        let goes_on = gap.is_empty() || escapes && gap.contains(['\n', '\r']);
        if !goes_on || !next.starts_with(quote) {
            return Some(from);
        }
        from += gap.len() + 1;
    }
}

/// Returns the end of a comment. Comments nest.
fn comment_end(text: &str) -> Option<usize> {
    let mut depth = 0;
    let mut at = 0;
    loop {
        let found = text[at..].find(['/', '*'])?;
        at += found;
        let step = match text[at..].get(..2) {
            Some("/*") => {
                depth += 1;
                2
            }
            Some("*/") => {
                depth -= 1;
                2
            }
            _ => 1,
        };
        at += step;
        if depth == 0 {
            return Some(at);
        }
    }
}

/// Returns the end of `$tag$ .. $tag$`, if it is terminated; `None` if the `$` does not begin a
/// string, as in `$1`.
fn dollar_end(text: &str) -> Option<Option<usize>> {
    let end = 1 + text[1..].find('$')?;
    let tag = &text[1..end];
    let first = tag.chars().next();
    if !first.is_none_or(starts_word) || !tag.chars().all(continues_word) {
        return None;
    }
    let mark = &text[..=end];
    let body = &text[end + 1..];
    Some(body.find(mark).map(|at| end + 1 + at + mark.len()))
}

#[cfg(test)]
mod tests;
