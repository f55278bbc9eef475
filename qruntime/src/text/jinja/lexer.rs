//! Tokens of a template, with Jinja2's rules for whitespace under `trim_blocks` and
//! `lstrip_blocks`.

use std::sync::Arc;

use super::Fault;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// Text between tags.
    Data(Arc<str>),
    BeginPrint,
    EndPrint,
    BeginBlock,
    EndBlock,
    Name(Arc<str>),
    Text(Arc<str>),
    Int(i128),
    Float(f64),
    Operator(&'static str),
}

/// Operators, the longer ones first.
const OPERATORS: [&str; 25] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".",
    ":", "|", ",",
];

/// Returns whether Python considers a character a space.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// Splits a template into tokens, each with its line.
pub(super) fn tokens(source: &str) -> Result<Vec<(Token, usize)>, Fault> {
    let mut source = source.replace("\r\n", "\n").replace('\r', "\n");
    // Jinja2 drops one newline at the end.
    if source.ends_with('\n') {
        source.pop();
    }
    let mut lexer = Lexer { rest: &source, line: 1, at_line_start: true, tokens: Vec::new() };
    while !lexer.rest.is_empty() {
        lexer.data()?;
    }
    Ok(lexer.tokens)
}

struct Lexer<'s> {
    rest: &'s str,
    line: usize,
    /// Whether the text read so far is empty or ends with a newline.
    at_line_start: bool,
    tokens: Vec<(Token, usize)>,
}

impl<'s> Lexer<'s> {
    fn fault(&self, message: impl Into<String>) -> Fault {
        Fault::at(self.line, message)
    }

    /// Takes this many bytes.
    fn take(&mut self, bytes: usize) -> &'s str {
        let (taken, rest) = self.rest.split_at(bytes);
        if !taken.is_empty() {
            self.at_line_start = taken.ends_with('\n');
        }
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken
    }

    fn take_space(&mut self) {
        self.take(self.rest.len() - self.rest.trim_start_matches(is_space).len());
    }

    /// Takes a newline, if the next character is one.
    fn take_newline(&mut self) {
        self.take(usize::from(self.rest.starts_with('\n')));
    }

    fn push(&mut self, token: Token) {
        self.tokens.push((token, self.line));
    }

    /// Reads text up to the next tag, and the tag.
    fn data(&mut self) -> Result<(), Fault> {
        let starts = |at: &usize| ["{{", "{%", "{#"].iter().any(|mark| self.rest[*at..].starts_with(mark));
        let Some(at) = self.rest.match_indices('{').map(|(at, _)| at).find(starts) else {
            let text = self.rest;
            self.push(Token::Data(text.into()));
            self.take(text.len());
            return Ok(());
        };
        let (mark, sign) = (self.rest.as_bytes()[at + 1], self.rest.as_bytes().get(at + 2).copied());
        self.text_before(at, sign, mark != b'{');
        self.take(2 + usize::from(matches!(sign, Some(b'-' | b'+'))));
        match mark {
            b'{' => {
                self.push(Token::BeginPrint);
                self.inside(&["}}"])
            }
            b'#' => self.comment(),
            _ if self.is_raw() => self.raw(),
            _ => {
                self.push(Token::BeginBlock);
                self.inside(&["%}"])
            }
        }
    }

    /// Reads the text before a tag, which begins `at` bytes from here and may have a sign. The
    /// space between the beginning of the line and a block is not part of the text.
    fn text_before(&mut self, at: usize, sign: Option<u8>, block: bool) {
        let (line, at_line_start) = (self.line, self.at_line_start);
        let whole = self.take(at);
        let mut text = whole;
        if sign == Some(b'-') {
            text = text.trim_end_matches(is_space);
        } else if sign != Some(b'+') && block {
            let line = text.rfind('\n').map_or(0, |at| at + 1);
            if (line > 0 || at_line_start) && text[line..].chars().all(is_space) {
                text = &text[..line];
            }
        }
        if !text.is_empty() {
            self.tokens.push((Token::Data(text.into()), line));
        }
    }

    fn comment(&mut self) -> Result<(), Fault> {
        let end = self.rest.find("#}").ok_or_else(|| self.fault("a comment has no end"))?;
        let sign = self.rest.as_bytes()[..end].last().copied();
        self.take(end + 2);
        self.after_block(sign);
        Ok(())
    }

    /// Takes the whitespace that belongs to the end of a block or a comment.
    fn after_block(&mut self, sign: Option<u8>) {
        match sign {
            Some(b'-') => self.take_space(),
            Some(b'+') => {}
            _ => self.take_newline(),
        }
    }

    /// Returns whether the position is inside `{% raw %}`.
    fn is_raw(&self) -> bool {
        let rest = self.rest.trim_start_matches(is_space).strip_prefix("raw");
        rest.map(|rest| rest.trim_start_matches(is_space))
            .is_some_and(|rest| rest.starts_with("%}") || rest.starts_with("-%}"))
    }

    fn raw(&mut self) -> Result<(), Fault> {
        let begin = self.rest.find("%}").unwrap_or_default();
        let sign = self.rest.as_bytes()[..begin].last().copied();
        self.take(begin + 2);
        if sign == Some(b'-') {
            self.take_space();
        }
        let mut from = 0;
        loop {
            let at = self.rest[from..].find("{%").ok_or_else(|| self.fault("a raw block has no end"))? + from;
            from = at + 2;
            let sign = self.rest.as_bytes().get(from).copied().filter(|sign| matches!(sign, b'-' | b'+'));
            let inside = self.rest[from + usize::from(sign.is_some())..].trim_start_matches(is_space);
            let Some(after) = inside.strip_prefix("endraw").map(|rest| rest.trim_start_matches(is_space)) else {
                continue;
            };
            let Some(end) = ["%}", "-%}", "+%}"].into_iter().find(|end| after.starts_with(end)) else { continue };
            let len = self.rest.len() - after.len() + end.len();
            self.text_before(at, sign, true);
            self.take(len - at);
            self.after_block(end.bytes().next());
            return Ok(());
        }
    }

    /// Reads the tokens of a tag, which ends where all brackets are closed.
    fn inside(&mut self, ends: &[&'static str; 1]) -> Result<(), Fault> {
        let end = ends[0];
        let mut open = Vec::new();
        loop {
            self.take_space();
            if open.is_empty() {
                let sign = self.rest.bytes().next();
                let signed = match sign {
                    Some(b'-') => true,
                    Some(b'+') => end == "%}",
                    _ => false,
                };
                if self.rest[usize::from(signed)..].starts_with(end) {
                    let block = end == "%}";
                    self.push(if block { Token::EndBlock } else { Token::EndPrint });
                    self.take(usize::from(signed) + 2);
                    match block {
                        true => self.after_block(sign.filter(|_| signed)),
                        false if signed => self.take_space(),
                        false => {}
                    }
                    return Ok(());
                }
            }
            let Some(next) = self.rest.chars().next() else { return Err(self.fault(format!("no {end}"))) };
            if next.is_ascii_digit() {
                self.number()?;
            } else if is_name(next) {
                let len = self.rest.find(|c| !is_name(c)).unwrap_or(self.rest.len());
                self.push(Token::Name(self.rest[..len].into()));
                self.take(len);
            } else if matches!(next, '\'' | '"') {
                self.string(next)?;
            } else {
                let rest = self.rest;
                let operator = OPERATORS.into_iter().find(|operator| rest.starts_with(operator));
                let operator = operator.ok_or_else(|| self.fault(format!("unexpected {next:?}")))?;
                match operator {
                    "(" => open.push(")"),
                    "[" => open.push("]"),
                    "{" => open.push("}"),
                    ")" | "]" | "}" if open.pop() != Some(operator) => {
                        return Err(self.fault(format!("unexpected '{operator}'")));
                    }
                    _ => {}
                }
                self.push(Token::Operator(operator));
                self.take(operator.len());
            }
        }
    }

    fn number(&mut self) -> Result<(), Fault> {
        let after_dot = matches!(self.tokens.last(), Some((Token::Operator("."), _)));
        let digits = |text: &str| run(text, |c| c.is_ascii_digit());
        for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
            if self.rest.get(..2).is_some_and(|start| start.eq_ignore_ascii_case(prefix)) {
                // An underscore may stand after the prefix, too.
                let underscore = usize::from(self.rest[2..].starts_with('_'));
                let len = underscore + run(&self.rest[2 + underscore..], |c| c.is_digit(radix));
                if len == underscore {
                    break;
                }
                let number = i128::from_str_radix(&self.rest[2..2 + len].replace('_', ""), radix);
                self.push(Token::Int(number.map_err(|_| self.fault("an integer that is too large"))?));
                self.take(2 + len);
                return Ok(());
            }
        }
        let whole = digits(self.rest);
        let mut len = whole;
        if !after_dot {
            let fraction = self.rest[len..].strip_prefix('.').map_or(0, digits);
            if fraction > 0 {
                len += 1 + fraction;
            }
            if let Some(exponent) = self.rest[len..].strip_prefix(['e', 'E']) {
                let sign = usize::from(exponent.starts_with(['+', '-']));
                let power = digits(&exponent[sign..]);
                if power > 0 {
                    len += 1 + sign + power;
                }
            }
        }
        // An integer that begins with a zero is zero; the next digit begins another number.
        if len == whole && self.rest.starts_with('0') {
            len = run(self.rest, |c| c == '0');
        }
        let text = self.rest[..len].replace('_', "");
        let token = match len <= whole {
            true => Token::Int(text.parse().map_err(|_| self.fault("an integer that is too large"))?),
            false => Token::Float(text.parse().map_err(|_| self.fault("a number that is none"))?),
        };
        self.push(token);
        self.take(len);
        Ok(())
    }

    fn string(&mut self, quote: char) -> Result<(), Fault> {
        let (mut end, mut escaped) = (None, false);
        for (at, c) in self.rest.char_indices().skip(1) {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                c if c == quote => {
                    end = Some(at);
                    break;
                }
                _ => {}
            }
        }
        let end = end.ok_or_else(|| self.fault("a string has no end"))?;
        let text = unescaped(&self.rest[1..end]).map_err(|message| self.fault(message))?;
        self.push(Token::Text(text.into()));
        self.take(end + 1);
        Ok(())
    }
}

/// Returns the length of the digits at the beginning of a text, with single underscores between
/// them.
fn run(text: &str, is_digit: impl Fn(char) -> bool) -> usize {
    let (mut len, mut last) = (0, '_');
    for (at, c) in text.char_indices() {
        match c {
            '_' if last != '_' => {}
            c if is_digit(c) => len = at + c.len_utf8(),
            _ => break,
        }
        last = c;
    }
    len
}

fn is_name(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// Returns a string's text from the source between its quotes.
fn unescaped(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out += &rest[..at];
        let mut chars = rest[at + 1..].chars();
        let Some(kind) = chars.next() else { break };
        let mut after = chars.as_str();
        let mut code = |digits: usize| -> Result<char, String> {
            let number = after.get(..digits).and_then(|hex| u32::from_str_radix(hex, 16).ok());
            after = after.get(digits..).unwrap_or_default();
            number.and_then(char::from_u32).ok_or_else(|| format!("\\{kind} without the number of a character"))
        };
        match kind {
            '\n' => {}
            'a' => out.push('\x07'),
            'b' => out.push('\x08'),
            'f' => out.push('\x0c'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'v' => out.push('\x0b'),
            '\\' | '\'' | '"' => out.push(kind),
            'x' => out.push(code(2)?),
            'u' => out.push(code(4)?),
            'U' => out.push(code(8)?),
            'N' => return Err("\\N, a character by its name, cannot be had here".to_owned()),
            '0'..='7' => {
                let octal = &rest[at + 1..];
                let len = octal.bytes().take(3).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
                let number = u32::from_str_radix(&octal[..len], 8).ok().and_then(char::from_u32);
                out.push(number.unwrap_or(char::REPLACEMENT_CHARACTER));
                after = &octal[len..];
            }
            other => {
                out.push('\\');
                out.push(other);
            }
        }
        rest = after;
    }
    out += rest;
    Ok(out)
}
