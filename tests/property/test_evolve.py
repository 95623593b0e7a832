"""The compatibility check against a naive validator: what it lets pass loses no instance."""

import json
import re

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from clickwell.schemas.evolve import compatible


def valid(schema, value):
    """Validate by the letter of JSON Schema 2020-12, for the keywords that the generated schemas use."""
    if isinstance(schema, bool):
        return schema
    number = isinstance(value, int | float) and not isinstance(value, bool)
    text = json.dumps(value, sort_keys=True)
    types = {
        "object": isinstance(value, dict),
        "array": isinstance(value, list),
        "string": isinstance(value, str),
        "number": number,
        "integer": number and value == int(value),
        "boolean": isinstance(value, bool),
        "null": value is None,
    }
    named = schema.get("type", list(types))
    checks = [
        any(types[name] for name in ([named] if isinstance(named, str) else named)),
        "enum" not in schema or text in [json.dumps(one, sort_keys=True) for one in schema["enum"]],
        "const" not in schema or text == json.dumps(schema["const"], sort_keys=True),
        "anyOf" not in schema or any(valid(one, value) for one in schema["anyOf"]),
        "oneOf" not in schema or sum(valid(one, value) for one in schema["oneOf"]) == 1,
    ]
    if number:
        checks += [value >= schema.get("minimum", value), value <= schema.get("maximum", value)]
    if isinstance(value, str):
        checks += [schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value))]
        checks += [re.search(schema.get("pattern", ""), value) is not None]
    if isinstance(value, list):
        checks += [schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))]
        checks += [valid(schema.get("items", True), item) for item in value]
    if isinstance(value, dict):
        named, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        checks += [name in value for name in schema.get("required", [])]
        checks += [valid(named.get(name, others), item) for name, item in value.items()]
    return all(checks)


# Few names and small numbers, so that old and new speak about the same things and instances are often valid.
names = st.sampled_from("abc")
floors, ceilings = st.integers(-1, 1), st.integers(0, 3)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 4), st.sampled_from([0.5, 1.0]), st.text("ab", max_size=4)
)
values = scalars | st.lists(scalars, max_size=4) | st.dictionaries(names, scalars, max_size=3)
RULES = {
    "string": {"minLength": floors, "maxLength": ceilings, "pattern": st.sampled_from(["^a", "b$"])},
    "integer": {"minimum": floors, "maximum": ceilings},
    "number": {"minimum": floors, "maximum": ceilings},
    "array": {"items": ..., "minItems": floors, "maxItems": ceilings},
    "object": {
        "properties": ...,
        "additionalProperties": ...,
        "required": st.lists(names, max_size=1),
    },
    "null": {},
    "boolean": {},
}
LIMITS = {
    "type": st.lists(st.sampled_from(list(RULES)), min_size=1, max_size=3, unique=True),
    "enum": st.lists(scalars, min_size=1, max_size=3),
    "const": scalars,
    "anyOf": ...,
    "oneOf": ...,
}


def rules_of(kind, inner):
    """Return a strategy for each keyword that works on instances of a type; None stands for all types."""
    nested = {
        "items": inner,
        "properties": st.dictionaries(names, inner, max_size=2),
        "additionalProperties": inner,
        "anyOf": st.lists(inner, min_size=1, max_size=2),
        "oneOf": st.lists(inner, min_size=1, max_size=2),
    }
    rules = RULES[kind] if kind else {rule: st_ for group in RULES.values() for rule, st_ in group.items()} | LIMITS
    return {rule: nested.get(rule, strategy) for rule, strategy in rules.items()}


def wider(inner):
    """Return a strategy for schemas around smaller ones: of one type, or a mixture of all keywords."""
    typed = [st.fixed_dictionaries({"type": st.just(kind)}, optional=rules_of(kind, inner)) for kind in RULES]
    return st.one_of(*typed, st.fixed_dictionaries({}, optional=rules_of(None, inner)))


nested = st.recursive(st.booleans(), wider, max_leaves=4)
schemas = wider(nested)


@st.composite
def changed(draw, schema):
    """Draw the schema with one keyword taken away, replaced or added, at any depth."""
    if isinstance(schema, bool):
        return draw(nested)
    parts = [name for name in schema if name in {"items", "additionalProperties"}]
    if parts and draw(st.booleans()):
        name = draw(st.sampled_from(parts))
        return schema | {name: draw(changed(schema[name]))}
    if schema.get("properties") and draw(st.booleans()):
        name = draw(st.sampled_from(sorted(schema["properties"])))
        return schema | {"properties": schema["properties"] | {name: draw(changed(schema["properties"][name]))}}
    kind = schema.get("type")
    rules = rules_of(kind if isinstance(kind, str) else None, nested)
    rule = draw(st.sampled_from(sorted({*rules, *schema})))
    without = {name: part for name, part in schema.items() if name != rule}
    return without if rule not in rules or draw(st.booleans()) else without | {rule: draw(rules[rule])}


def instances(schema):
    """Return a strategy for values that are often valid under the schema."""
    if isinstance(schema, bool):
        return values
    for rule in ("anyOf", "oneOf"):
        if rule in schema:
            return st.one_of(values, *map(instances, schema[rule]))
    if "enum" in schema or "const" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")]))
    others = instances(schema.get("additionalProperties", True))
    named = {name: instances(part) for name, part in schema.get("properties", {}).items()}
    required = {name: named.get(name, others) for name in schema.get("required", [])}
    makers = {
        "object": st.builds(
            lambda free, fixed: {name: value for name, value in free.items() if name not in named} | fixed,
            st.dictionaries(names, others, max_size=2),
            st.fixed_dictionaries(required, optional={n: part for n, part in named.items() if n not in required}),
        ),
        "array": st.lists(instances(schema.get("items", True)), max_size=4),
        "string": st.text("ab", max_size=4),
        "integer": st.integers(-2, 4),
        "number": st.integers(-2, 4) | st.sampled_from([0.5, 1.0]),
        "boolean": st.booleans(),
        "null": st.none(),
    }
    kinds = schema.get("type", list(makers))
    return st.one_of([makers[kind] for kind in ([kinds] if isinstance(kinds, str) else kinds)])


@settings(max_examples=1500, suppress_health_check=list(HealthCheck), deadline=None)
@given(st.data())
def test_a_compatible_schema_accepts_whatever_the_old_one_accepted(data):
    """No instance that is valid under the old schema is lost where the check finds no problem."""
    old = data.draw(schemas)
    new = data.draw(changed(old))
    assume(not compatible(old, new))
    for value in data.draw(st.lists(instances(old), min_size=5, max_size=5)):
        assert valid(new, value) or not valid(old, value)


@given(schemas)
def test_a_schema_is_compatible_with_itself(schema):
    """An unchanged schema has no problem, unless it allows nothing at all."""
    assert [p for p in compatible(schema, schema) if "nothing is allowed" not in p] == []


EVENT = {
    "type": "object",
    "required": ["id"],
    "additionalProperties": True,
    "properties": {
        "id": {"type": "string", "minLength": 1, "maxLength": 8},
        "n": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 9}, {"type": "null"}]},
        "kind": {"enum": ["a", "b"]},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/Tag"}, "maxItems": 3},
    },
    "$defs": {"Tag": {"type": "string", "pattern": "^[a-z]+$"}},
}


def edited(**properties):
    """Return EVENT with some properties replaced; None takes one away."""
    merged = EVENT["properties"] | properties
    return EVENT | {"properties": {name: rule for name, rule in merged.items() if rule is not None}}


@pytest.mark.parametrize(
    "new",
    [
        EVENT | {"title": "Event", "description": "other words"},
        EVENT | {"required": []},
        edited(id={"type": "string"}),
        edited(id={"type": ["string", "null"]}),
        edited(n={"type": ["number", "null"]}),
        edited(n=None),
        edited(kind={"enum": ["a", "b", "c"]}),
        edited(kind={"type": "string"}) | {"properties": edited()["properties"] | {"kind": {}}},
        edited(tags={"type": "array", "items": {"type": "string"}, "maxItems": 4}),
        edited(fresh={}),
        {},
    ],
)
def test_wider_schemas_pass(new):
    """Words, fewer demands, more types and looser bounds are all fine."""
    assert compatible(EVENT, new) == []


@pytest.mark.parametrize(
    ("new", "problem"),
    [
        (EVENT | {"required": ["id", "n"]}, "event: n is required now"),
        (EVENT | {"additionalProperties": False}, "*: nothing is allowed any more"),
        (edited(id={"type": "integer"}), "id: string is no longer allowed"),
        (edited(id={"type": "string", "minLength": 2}), "id: minLength rose from 1 to 2"),
        (edited(id={"type": "string", "maxLength": 7}), "id: maxLength fell from 8 to 7"),
        (edited(n={"type": "integer"}), "n: null is no longer allowed"),
        (edited(kind={"enum": ["a"]}), "kind: enum leaves out values that were allowed"),
        (
            edited(tags={"type": "array", "items": {"type": "string", "pattern": "^a"}}),
            "tags[]: pattern was added or changed",
        ),
        (EVENT | {"$defs": {"Tag": {"type": "string", "pattern": "^[a-f]+$"}}}, "tags[]: pattern was added or changed"),
        (edited(fresh={"type": "string"}), "fresh: any type is no longer allowed"),
        (EVENT | {"propertyNames": {"maxLength": 3}}, "event: propertyNames was added or changed"),
    ],
)
def test_narrower_schemas_are_named(new, problem):
    """Each narrowing is reported with the field and what happened to it."""
    assert problem in compatible(EVENT, new)


def test_alternatives_do_not_borrow_from_their_neighbours():
    """`additionalProperties` beside `anyOf` knows nothing of the properties named within it."""
    old = {"properties": {"a": {}}, "additionalProperties": False}
    assert compatible(old, {"anyOf": [{"properties": {"a": {}}}], "additionalProperties": False})
