"""Mutants of a module: its syntax tree with one small thing changed.

What changes is what mutmut and cosmic-ray change, text left out (:data:`OPERATORS` says which). What is
left out, because no behaviour of a gate depends on it:

* docstrings, imports, ``__all__``, ``TYPE_CHECKING`` blocks, caches (``lru_cache``);
* annotations and aliases of types, except the ``Field(...)`` of a model in them;
* dropping a statement of a module or a class, without which nothing could be imported;
* text for people: a string that is no single word or name, and whatever else a refusal says beyond its
  rule (:data:`REFUSALS`). Words and names, such as rule ids and the keys of ``details``, are mutated.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CodeType

OPERATORS = {
    "compare": "< and <=, > and >=, == and !=, is and is not, in and not in, one for the other; or the opposite",
    "number": "a number plus 1, minus 1",
    "boolean": "True and False, and and or, any and all, one for the other",
    "not": "a condition is negated; not is dropped",
    "choice": "a conditional expression takes one of its branches always",
    "arithmetic": "+ and -, * and /, | and &, min and max, one for the other; ** becomes *, // becomes /; "
    "a minus is dropped",
    "augmented": "x += y becomes x = y",
    "word": "a string that is one word or name becomes another",
    "return": "nothing is returned",
    "drop": "a statement, a keyword argument, a decorator, or a case of a match is dropped",
    "loop": "a loop has no round; break and continue, one for the other",
    "except": "an error is not caught",
}
"""Every operator, in words."""

REFUSALS = frozenset(
    {"StairlockError", "ConfigError", "EvidenceError", "ValueError", "PydanticCustomError", "wrong", "refusal"}
)
"""Calls that refuse something: of their arguments only the rule, and for ``refusal`` the position, is mutated."""

_WORD = re.compile(r"[A-Za-z0-9_.:-]+")
_COMPARE: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}
_DROPPED = (ast.Expr, ast.Raise, ast.Assign, ast.AugAssign, ast.Delete)
_TYPE_WORDS = frozenset({"Literal", "Annotated", "Sequence", "Mapping", "Callable", "NDArray"})


@dataclass(frozen=True)
class Mutant:
    """One change. ``function`` is the outermost function or method that holds it, or empty."""

    id: str
    path: str
    number: int
    line: int
    function: str
    operator: str
    before: str
    after: str


@dataclass(frozen=True)
class _Site:
    node: ast.AST
    function: str
    operator: str
    after: str
    apply: Callable[[], None]


def mutants_of(path: str, source: str) -> list[Mutant]:
    """Every mutant of a module. Ids stay where only lines move."""
    tree = ast.parse(source)
    seen: Counter[tuple[str, ...]] = Counter()
    found: list[Mutant] = []
    for number, site in enumerate(_Sites(tree).all()):
        before = ast.unparse(site.node)
        key = (path, site.function, site.operator, before, site.after)
        text = "\0".join((*key, str(seen[key])))
        seen[key] += 1
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        line = getattr(site.node, "lineno", 0)
        found.append(Mutant(digest, path, number, line, site.function, site.operator, before, site.after))
    return found


def mutated(path: str, source: str, number: int) -> CodeType:
    """The code of the module with one of its mutants applied.

    Raises:
        SyntaxError: there is no such program.
    """
    tree = ast.parse(source)
    site = list(_Sites(tree).all())[number]
    site.apply()
    return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)


class _Sites:
    """The places of a tree where something can be changed, in a fixed order."""

    def __init__(self, tree: ast.Module) -> None:
        self._tree = tree
        self._function = ""
        self._scope: list[str] = []

    def all(self) -> Iterator[_Site]:
        yield from self._block(self._tree, "body")

    def _site(self, node: ast.AST, operator: str, after: str, apply: Callable[[], None]) -> _Site:
        return _Site(node, self._function, operator, after, apply)

    # -- statements --------------------------------------------------------------------------

    def _block(self, owner: ast.AST, field: str) -> Iterator[_Site]:
        statements: list[ast.stmt] = getattr(owner, field)
        for index, statement in enumerate(statements):
            if not _is_left_out(statement, self._scope):
                yield from self._statement(statements, index, statement)

    def _statement(self, block: list[ast.stmt], index: int, node: ast.stmt) -> Iterator[_Site]:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield from self._definition(node)
            return

        def put(new: ast.stmt) -> Callable[[], None]:
            return lambda: block.__setitem__(index, ast.copy_location(new, node))

        if isinstance(node, _DROPPED) and self._function:
            yield self._site(node, "drop", "pass", put(ast.Pass()))
        if isinstance(node, ast.AnnAssign) and node.value is not None and self._function:
            yield self._site(node, "drop", "pass", put(ast.Pass()))
        if isinstance(node, ast.AugAssign):
            plain = ast.Assign([node.target], node.value)
            yield self._site(node, "augmented", ast.unparse(ast.fix_missing_locations(plain)), put(plain))
            yield from self._operator(node)
        if isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
            yield self._site(node, "return", "return None", put(ast.Return(ast.Constant(None))))
        if isinstance(node, ast.Return) and node.value is None:
            yield self._site(node, "drop", "pass", put(ast.Pass()))
        if isinstance(node, ast.Break):
            yield self._site(node, "loop", "continue", put(ast.Continue()))
        if isinstance(node, ast.Continue):
            yield self._site(node, "loop", "break", put(ast.Break()))
        if isinstance(node, ast.For):
            none = ast.Tuple([], ast.Load())
            yield self._site(node.iter, "loop", "()", lambda: setattr(node, "iter", none))
        if isinstance(node, ast.If | ast.While):
            yield from self._negated(node, "test")
        if isinstance(node, ast.Match) and len(node.cases) > 1:
            for case in node.cases:
                yield self._site(case.pattern, "drop", "no such case", lambda case=case: node.cases.remove(case))
        yield from self._children(node)

    def _definition(self, node: ast.FunctionDef | ast.ClassDef) -> Iterator[_Site]:
        for decorator in list(node.decorator_list):
            if ast.unparse(decorator).startswith("lru_cache"):
                continue
            yield self._site(decorator, "drop", "no decorator", lambda one=decorator: node.decorator_list.remove(one))
            yield from self._expression(node, "decorator_list", node.decorator_list.index(decorator), decorator)
        if isinstance(node, ast.FunctionDef):
            for field in ("defaults", "kw_defaults"):
                for index, default in enumerate(getattr(node.args, field)):
                    if default is not None:
                        yield from self._expression(node.args, field, index, default)
        self._scope.append(node.name)
        is_outermost = isinstance(node, ast.FunctionDef) and not self._function
        if is_outermost:
            self._function = ".".join(self._scope)
        yield from self._block(node, "body")
        if is_outermost:
            self._function = ""
        self._scope.pop()

    def _children(self, node: ast.AST) -> Iterator[_Site]:
        for field, value in ast.iter_fields(node):
            in_annotation = field in ("annotation", "returns")
            if isinstance(value, list):
                if value and isinstance(value[0], ast.stmt):
                    yield from self._block(node, field)
                    continue
                for index, item in enumerate(value):
                    if isinstance(item, ast.AST):
                        yield from self._expression(node, field, index, item, only_fields=in_annotation)
            elif isinstance(value, ast.AST):
                yield from self._expression(node, field, None, value, only_fields=in_annotation)

    # -- expressions -------------------------------------------------------------------------

    def _expression(
        self, owner: ast.AST, field: str, index: int | None, node: ast.AST, *, only_fields: bool = False
    ) -> Iterator[_Site]:
        """``only_fields``: in a type, only the call ``Field(...)`` counts."""

        def put(new: ast.AST) -> Callable[[], None]:
            if index is None:
                return lambda: setattr(owner, field, ast.copy_location(new, node))
            return lambda: getattr(owner, field).__setitem__(index, ast.copy_location(new, node))

        def changed(operator: str, new: ast.expr) -> _Site:
            return self._site(node, operator, ast.unparse(ast.fix_missing_locations(new)), put(new))

        if only_fields or _is_type(node, owner):
            if self._function:
                return
            for parent in ast.walk(node):
                for call_field, value in ast.iter_fields(parent):
                    for i, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
                        if isinstance(child, ast.Call) and ast.unparse(child.func) == "Field":
                            yield from self._expression(parent, call_field, i, child)
            return
        match node:
            case ast.Compare(left, ops, rights):
                for i, op in enumerate(ops):
                    for other in _COMPARE[type(op)]:
                        new_ops = [*ops[:i], other(), *ops[i + 1 :]]
                        yield changed("compare", ast.Compare(left, new_ops, rights))
            case ast.BoolOp(op, values):
                yield changed("boolean", ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values))
                for i in range(len(values)):
                    yield from self._negated_part(node, i)
            case ast.UnaryOp(ast.Not(), operand):
                yield changed("not", operand)
            case ast.UnaryOp(ast.USub(), operand):
                yield changed("arithmetic", operand)
            case ast.BinOp():
                yield from self._operator(node)
            case ast.IfExp(_, body, orelse):
                yield changed("choice", body)
                yield changed("choice", orelse)
                if not isinstance(node.test, ast.Compare):
                    yield from self._negated(node, "test")
            case ast.Name(name, ast.Load()) if name in _NAMES:
                kind = "boolean" if name in ("any", "all") else "arithmetic"
                yield changed(kind, ast.Name(_NAMES[name], ast.Load()))
            case ast.Constant(bool(value)):
                yield changed("boolean", ast.Constant(not value))
            case ast.Constant(int(value) | float(value)):
                yield changed("number", ast.Constant(value + 1))
                yield changed("number", ast.Constant(value - 1))
            case ast.Constant(str(value)) if _WORD.fullmatch(value):
                yield changed("word", ast.Constant(f"XX{value}XX"))
            case ast.ExceptHandler(type=ast.expr()):
                yield self._site(node.type, "except", "()", lambda: setattr(node, "type", ast.Tuple([], ast.Load())))
            case ast.comprehension(ifs=ifs):
                for i, condition in enumerate(ifs):
                    if not isinstance(condition, ast.Compare | ast.UnaryOp):
                        yield self._site(
                            condition,
                            "not",
                            f"not {ast.unparse(condition)}",
                            lambda i=i, c=condition: ifs.__setitem__(i, ast.UnaryOp(ast.Not(), c)),
                        )
            case ast.Call():
                yield from self._call(node)
                return
            case ast.JoinedStr(values):  # the words are text; what stands in braces is not
                for part in values:
                    if isinstance(part, ast.FormattedValue):
                        yield from self._expression(part, "value", None, part.value)
                return
            case _:
                pass
        yield from self._children(node)

    def _call(self, node: ast.Call) -> Iterator[_Site]:
        name = ast.unparse(node.func).split(".")[-1]
        if name in REFUSALS:
            if node.args and name != "ValueError":
                yield from self._expression(node, "args", 0, node.args[0])
            if name == "refusal":
                yield from self._expression(node, "args", 1, node.args[1])
            return
        for keyword in node.keywords:
            if keyword.arg is not None:
                after = f"no {keyword.arg}"
                yield self._site(keyword.value, "drop", after, lambda one=keyword: node.keywords.remove(one))
        yield from self._children(node)

    def _operator(self, node: ast.BinOp | ast.AugAssign) -> Iterator[_Site]:
        other = _ARITHMETIC.get(type(node.op))
        if other is not None:
            sign = ast.unparse(ast.BinOp(ast.Name("x"), other(), ast.Name("y")))[2:-2]
            yield self._site(node, "arithmetic", sign, lambda: setattr(node, "op", other()))

    def _negated(self, node: ast.AST, field: str) -> Iterator[_Site]:
        test: ast.expr = getattr(node, field)
        is_not = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
        if isinstance(test, ast.Compare) or is_not:  # their own operators do that
            return
        new = ast.UnaryOp(ast.Not(), test)
        yield self._site(test, "not", ast.unparse(new), lambda: setattr(node, field, ast.copy_location(new, test)))

    def _negated_part(self, node: ast.BoolOp, index: int) -> Iterator[_Site]:
        part = node.values[index]
        if isinstance(part, ast.Name | ast.Attribute | ast.Call | ast.Subscript):
            new = ast.UnaryOp(ast.Not(), part)
            yield self._site(part, "not", ast.unparse(new), lambda: node.values.__setitem__(index, new))


def _is_left_out(node: ast.stmt, scope: list[str]) -> bool:
    match node:
        case ast.Import() | ast.ImportFrom() | ast.Pass():
            return True
        case ast.Expr(ast.Constant(str())):
            return True
        case ast.Assign([ast.Name("__all__")]):
            return True
        case ast.If(ast.Name("TYPE_CHECKING")):
            return True
        case ast.Expr(ast.Call(ast.Attribute(attr="model_rebuild"))):
            return True  # it only makes pydantic do now what it does at the first use
        case _:
            return False


def _is_type(node: ast.AST, owner: ast.AST) -> bool:
    """An alias of a type: ``Gate = Annotated[...]``, ``Name = A | B``, ``dict[str, int]()``."""
    if isinstance(owner, ast.Call) and node is owner.func and isinstance(node, ast.Subscript):
        return True
    if not isinstance(owner, ast.Assign):
        return False
    if isinstance(node, ast.Subscript):
        return ast.unparse(node.value) in _TYPE_WORDS
    return isinstance(node, ast.BinOp) and re.fullmatch(r"[A-Z]\w+( \| [A-Z]\w+)+", ast.unparse(node)) is not None


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None
