"""Whether a new JSON Schema still accepts everything that the old one accepted.

Services are not updated on the same day as the workers, so a released schema may only become wider. The check is sound,
not complete: an empty answer means that no instance is lost; a keyword that it cannot compare counts as a problem.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any] | bool

# Say something to people, nothing about what is valid. `format` asserts nothing in draft 2020-12.
_NOTES = frozenset({"$id", "$schema", "$defs", "title", "description", "default", "examples", "deprecated", "format"})
_FLOORS = frozenset({"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"})
_CEILINGS = frozenset({"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"})
# Judge the instance alone, whatever stands beside them: equal before and after, they lose nothing.
_CLOSED = frozenset({"pattern", "multipleOf", "uniqueItems", "enum", "const", "anyOf", "oneOf", "allOf", "not"})
_OBJECT = frozenset({"properties", "additionalProperties", "required", "minProperties", "maxProperties"})
_NUMBER = frozenset({"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "multipleOf"})
# A keyword is idle on an instance of another type.
_KEYWORDS_OF = {
    "object": _OBJECT,
    "array": frozenset({"items", "minItems", "maxItems", "uniqueItems"}),
    "string": frozenset({"minLength", "maxLength", "pattern"}),
    "number": _NUMBER,
    "integer": _NUMBER,
    "boolean": frozenset[str](),
    "null": frozenset[str](),
}
_TYPED = frozenset[str]().union(*_KEYWORDS_OF.values())


def compatible(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return what makes `new` refuse, or possibly refuse, instances that `old` accepts; empty when nothing does.

    A new property counts as a problem where unknown properties were allowed: senders may already use its name for
    something else.
    """
    return list(_problems(_inlined(old, old), _inlined(new, new), ""))


def _problems(old: Schema, new: Schema, at: str) -> Iterator[str]:
    """Yield the problems between two schemas that hold no references."""
    if new is True or (isinstance(new, Mapping) and not _rules(new)):
        return
    choices = list(_alternatives(new))
    for alternative in _alternatives(old):
        attempts = [list(_narrowed(alternative, choice, at)) for choice in choices]
        if not attempts:
            yield f"{at or 'event'}: nothing is allowed any more"
        elif all(attempts):
            yield from min(attempts, key=len)


def _alternatives(schema: Schema) -> Iterator[Mapping[str, Any]]:
    """Split `anyOf` and lists of types into schemas of one type each, of which an instance has to fit any."""
    if isinstance(schema, bool):
        if schema:
            yield {}
        return
    choices, rest = schema.get("anyOf"), {name: value for name, value in schema.items() if name != "anyOf"}
    if choices is not None and not any(isinstance(choice, bool) or _disturb(choice, rest) for choice in choices):
        for choice in choices:
            yield from _alternatives({**rest, **choice})
    elif isinstance(schema.get("type"), list):
        for name in schema["type"]:
            yield {**schema, "type": name}
    else:
        yield schema


def _narrowed(old: Mapping[str, Any], new: Mapping[str, Any], at: str) -> Iterator[str]:
    """Yield how `new` is narrower than `old`, both of one type or of any."""
    kind = old.get("type")
    if "type" in new and new["type"] != kind and (kind, new["type"]) != ("integer", "number"):
        yield f"{at or 'event'}: {kind or 'any type'} is no longer allowed"
        return
    for rule in sorted(_rules(new) - {"type", "properties", "additionalProperties"}):
        if rule in _TYPED and kind is not None and rule not in _KEYWORDS_OF[kind]:
            continue
        if rule == "items":
            yield from _problems(old.get("items", True), new["items"], f"{at}[]")
        elif problem := _tightened(rule, old, new):
            yield f"{at or 'event'}: {problem}"
    if kind in {None, "object"}:
        yield from _narrowed_properties(old, new, at)


def _tightened(rule: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return how one keyword of `new` is tighter than in `old`; empty when it is not."""
    before, after = old.get(rule), new[rule]
    if rule in old and rule in _CLOSED and _same(before, after):
        return ""
    if rule in _FLOORS:
        return f"{rule} rose from {before} to {after}" if before is None or before < after else ""
    if rule in _CEILINGS:
        return f"{rule} fell from {before} to {after}" if before is None or before > after else ""
    if rule == "required":
        return ", ".join(f"{name} is required now" for name in sorted({*after} - {*(before or [])}))
    if rule in {"enum", "const"}:
        allowed, was = _values({rule: after}), _values(old)
        return "" if was and was <= allowed else f"{rule} leaves out values that were allowed"
    return f"{rule} was added or changed"


def _narrowed_properties(old: Mapping[str, Any], new: Mapping[str, Any], at: str) -> Iterator[str]:
    """Yield how the named and the other properties of an object became narrower."""
    old_others, new_others = old.get("additionalProperties", True), new.get("additionalProperties", True)
    named, now = old.get("properties", {}), new.get("properties", {})
    for name in sorted({*named, *now}):
        yield from _problems(named.get(name, old_others), now.get(name, new_others), _inside(at, name))
    yield from _problems(old_others, new_others, _inside(at, "*"))


def _inlined(schema: Any, root: Mapping[str, Any], inside: tuple[str, ...] = ()) -> Any:
    """Return `schema` with references replaced by what they name; one that leads to itself stays."""
    if isinstance(schema, list):
        return [_inlined(part, root, inside) for part in schema]
    if not isinstance(schema, dict):
        return schema
    reference = schema.get("$ref")
    rest = {name: _inlined(part, root, inside) for name, part in schema.items() if name not in {"$ref", "$defs"}}
    if reference is None:
        return rest
    if reference in inside or not reference.startswith("#/$defs/"):
        return {**rest, "$ref": reference}
    target = _inlined(root["$defs"][reference.removeprefix("#/$defs/")], root, (*inside, reference))
    return {"allOf": [target], **rest} if _disturb(target, rest) else {**target, **rest}


def _disturb(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two schemas mean something else when their keywords stand side by side in one."""
    pair = {"properties", "additionalProperties"}
    return bool(_rules(one) & _rules(other) or (_rules(one) & pair and _rules(other) & pair))


def _rules(schema: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(schema) - _NOTES


def _values(schema: Mapping[str, Any]) -> set[str]:
    """Return the only values that are allowed, empty if not limited; as JSON, for in Python `1` equals `true`."""
    only = schema.get("enum", [schema["const"]] if "const" in schema else [])
    return {json.dumps(value, sort_keys=True) for value in only}


def _same(one: Any, other: Any) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _inside(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name
