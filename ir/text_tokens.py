"""Tokens of the IR's text, and a cursor over them that raises errors with line, column and caret.

Names are [A-Za-z_] letters, digits, "_" and "." between them; "@" or "%" may lead. A ";" starts a comment that ends
with the line. Line breaks mean nothing: expressions carry their parentheses.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import NoReturn

from .errors import ParseError

# What ends or joins parts of a statement, and the constants: these name no buffer, equation or axis.
KEYWORDS = frozenset(
    [
        "if",
        "for",
        "in",
        "let",
        "axes",
        "strides",
        "offset",
        "colliding",
        "true",
        "false",
        "inf",
        "nan",
        "none",
        "kernel",
        "graph",
        "scan",
        "inclusive",
        "exclusive",
        "reverse",
        "operands",
        "as",
    ]
)
TOKEN = re.compile(
    r"(?P<space>\s+|;[^\n]*)"
    r"|(?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?(?![A-Za-z_]))"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_@]*(?:\.[A-Za-z0-9_]+)*|[@%][A-Za-z0-9_@]+(?:\.[A-Za-z0-9_]+)*)"
    r'|(?P<string>%?"(?:[^"\\\n]|\\.)*")'
    r"|(?P<sign>->|<-|:=|\+=|\*=|<=|>=|==|!=|<<|>>|//|\*\*|\.\.|[-+*/%&|^<>=()\[\]{},:#])"
)


@dataclass(frozen=True, slots=True)
class Token:
    kind: str  # "name", "number", "string", "sign" or "end"
    text: str
    at: int


def is_name(text: str) -> bool:
    """True for what may name a buffer, an equation or an axis in text."""
    match = TOKEN.fullmatch(text)
    return match is not None and match.lastgroup == "name" and text not in KEYWORDS


def quoted(name: str, prefix: str = "") -> str:
    """A name as text reads it back: itself, or a string where it has other characters."""
    match = TOKEN.fullmatch(prefix + name)
    return prefix + (name if match is not None and match.lastgroup == "name" else json.dumps(name))


class Cursor:
    """A position in a text's tokens."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[Token] = []
        self.place = 0
        at = 0
        while at < len(text):
            match = TOKEN.match(text, at)
            if match is None:
                self.fail_at(at, "a character that no token starts with", got=repr(text[at]))
            if match.lastgroup != "space":
                self.tokens.append(Token(str(match.lastgroup), match[0], at))
            at = match.end()
        self.tokens.append(Token("end", "", len(text)))

    def peek(self, ahead: int = 0) -> Token:
        return self.tokens[min(self.place + ahead, len(self.tokens) - 1)]

    def sees(self, *texts: str) -> bool:
        """True when the next tokens are these words or signs."""
        return all(
            self.peek(k).text == text and self.peek(k).kind in ("name", "sign") for k, text in enumerate(texts)
        )  # fmt: skip

    def take(self) -> Token:
        token = self.peek()
        self.place += 1
        return token

    def accept(self, *texts: str) -> bool:
        if not self.sees(*texts):
            return False
        self.place += len(texts)
        return True

    def expect(self, text: str) -> None:
        if not self.accept(text):
            self.fail("unexpected text", repr(text))

    def name(self, what: str = "a name") -> str:
        """A name, or a string that stands for one."""
        token = self.peek()
        if token.kind == "string" and token.text[0] == '"':
            return str(json.loads(self.take().text))
        if token.kind != "name":
            self.fail("unexpected text", what)
        return self.take().text

    def integer(self) -> int:
        sign = -1 if self.accept("-") else 1
        if not self.peek().text.isdigit():
            self.fail("unexpected text", "an integer")
        return sign * int(self.take().text)

    def fail(self, problem: str, expected: str = "", got: str = "") -> NoReturn:
        token = self.peek()
        self.fail_at(token.at, problem, expected, got or (repr(token.text) if token.text else "the end"))

    def fail_at(self, at: int, problem: str, expected: str = "", got: str = "") -> NoReturn:
        line = self.text.count("\n", 0, at) + 1
        start = self.text.rfind("\n", 0, at) + 1
        text = self.text[start:].split("\n", 1)[0]
        raise ParseError(problem, line=line, column=at - start, text=text, expected=expected, got=got)
