//! The tree of a template. Chains (`a + b + c`, `a.b.c`, `a|b|c`, `elif`) are lists, so that only
//! nesting in the text makes the tree deeper.

use std::sync::Arc;

/// The index of a name in [`Tree::names`].
pub(super) type Symbol = usize;

/// A whole template.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) body: Vec<Statement>,
    /// The names of all variables in the template.
    pub(super) names: Vec<Arc<str>>,
    /// Macros and the bodies of call blocks. Values refer to them by index.
    pub(super) macros: Vec<Macro>,
    /// Loops, to which `loop(...)` refers by index.
    pub(super) loops: Vec<For>,
}

#[derive(Debug)]
pub(super) struct Statement {
    pub(super) line: usize,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    Text(Arc<str>),
    Print(Vec<Expr>),
    Set(Target, Expr),
    /// `{% set x %}...{% endset %}`, through filters.
    SetBlock(Target, Vec<Suffix>, Vec<Statement>),
    /// Conditions with their bodies, and the body of `else`.
    If(Vec<(Expr, Vec<Statement>)>, Vec<Statement>),
    For(usize),
    With(Vec<(Target, Expr)>, Vec<Statement>),
    /// A block that only opens a scope: `generation`, `block`.
    Scope(Vec<Statement>),
    Filter(Vec<Suffix>, Vec<Statement>),
    Macro(usize),
    /// The call, and the macro that is its `caller`.
    Call(Expr, usize),
    Break,
    Continue,
    /// A statement that chat templates cannot use, with the reason.
    Refuse(String),
}

#[derive(Debug)]
pub(super) struct For {
    pub(super) target: Target,
    pub(super) over: Expr,
    pub(super) test: Option<Expr>,
    pub(super) recursive: bool,
    pub(super) body: Vec<Statement>,
    pub(super) otherwise: Vec<Statement>,
}

#[derive(Debug, Default)]
pub(super) struct Macro {
    pub(super) name: Arc<str>,
    pub(super) signature: Arc<Signature>,
    pub(super) symbol: Symbol,
    pub(super) parameters: Vec<(Symbol, Option<Expr>)>,
    pub(super) body: Vec<Statement>,
    /// Whether the body mentions `caller`, `kwargs`, `varargs`: only then may it be given them.
    pub(super) uses: [bool; 3],
}

/// The properties of a macro that a template can read.
#[derive(Debug, Default)]
pub(super) struct Signature {
    /// The name; the body of a call block has none.
    pub(super) name: Option<Arc<str>>,
    pub(super) arguments: Vec<Arc<str>>,
    pub(super) caller: bool,
    pub(super) explicit_caller: bool,
    pub(super) catch_kwargs: bool,
    pub(super) catch_varargs: bool,
}

/// The names of [`Macro::uses`].
pub(super) const SPECIAL: [&str; 3] = ["caller", "kwargs", "varargs"];

#[derive(Debug)]
pub(super) enum Target {
    Name(Symbol),
    /// An attribute of a namespace.
    Attribute(Symbol, Arc<str>),
    Tuple(Vec<Self>),
}

#[derive(Debug)]
pub(super) enum Expr {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Arc<str>),
    Name(Symbol),
    List(Vec<Self>),
    Tuple(Vec<Self>),
    Dict(Vec<(Self, Self)>),
    /// A value with its conditions, each with the value if it is not met; the last condition is
    /// evaluated first.
    If(Box<Self>, Vec<(Self, Option<Self>)>),
    Or(Vec<Self>),
    And(Vec<Self>),
    Not(Box<Self>),
    Negate(Box<Self>),
    Plus(Box<Self>),
    Compare(Box<Self>, Vec<(Comparison, Self)>),
    /// Operators of one precedence, from left to right.
    Math(Box<Self>, Vec<(Operator, Self)>),
    Concat(Vec<Self>),
    Suffixed(Box<Self>, Vec<Suffix>),
}

/// An operation that follows a value.
#[derive(Debug)]
pub(super) enum Suffix {
    Attribute(Arc<str>),
    Item(Expr),
    Slice(Box<[Option<Expr>; 3]>),
    Call(Arguments),
    Filter(Arc<str>, Arguments),
    /// A test, and whether it is negated.
    Test(Arc<str>, Arguments, bool),
}

#[derive(Debug, Default)]
pub(super) struct Arguments {
    pub(super) list: Vec<Expr>,
    pub(super) named: Vec<(Arc<str>, Expr)>,
    /// `*list` and `**named`.
    pub(super) rest: [Option<Box<Expr>>; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Remainder,
    Power,
}

impl Operator {
    /// Returns the operator as it is written.
    pub(super) fn sign(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::FloorDivide => "//",
            Self::Remainder => "%",
            Self::Power => "**",
        }
    }
}
