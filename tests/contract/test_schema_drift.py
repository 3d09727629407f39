"""`schemas/` is what the contracts say, and every example there is a real message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from heteroscale.contracts import codec, schema, topics

SCHEMAS = Path(__file__).parents[2] / "schemas"
GENERATED = dict(schema.files())
MESSAGES = {message.__name__: message for message in schema.messages()}


def example(name: str) -> Any:
    """The hand-written example of a message, as plain JSON."""
    return json.loads((SCHEMAS / "examples" / f"{name}.json").read_text(encoding="utf-8"))


def missing_from(written: Any, encoded: Any, place: str = "$") -> list[str]:
    """Places where `encoded` does not carry what `written` says; added defaults are welcome."""
    if isinstance(written, dict) and isinstance(encoded, dict):
        return [
            problem
            for key, value in written.items()
            for problem in (missing_from(value, encoded[key], f"{place}.{key}") if key in encoded else [f"{place}.{key}"])
        ]
    if isinstance(written, list) and isinstance(encoded, list) and len(written) == len(encoded):
        return [problem for at, pair in enumerate(zip(written, encoded, strict=True)) for problem in missing_from(*pair, f"{place}[{at}]")]
    return [] if written == encoded else [place]


@pytest.mark.parametrize("path", sorted(GENERATED))
def test_generated_files_are_up_to_date(path: str) -> None:
    """A changed contract without `make schemas` fails here."""
    same = GENERATED[path] == (SCHEMAS / path).read_bytes()
    assert same, f"schemas/{path} is out of date: run `make schemas`"


def test_nothing_else_is_in_the_schema_folder() -> None:
    """No schema of a message that is gone, no example of an unknown message."""
    assert set(GENERATED) | {f"examples/{name}.json" for name in MESSAGES} == {
        str(path.relative_to(SCHEMAS)) for path in SCHEMAS.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_every_example_decodes_and_keeps_every_field(name: str) -> None:
    """Decoding and encoding loses nothing: a misspelt or renamed field would vanish."""
    message = codec.convert(MESSAGES[name], example(name))
    assert [] == missing_from(example(name), codec.to_document(message))


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_canonical_bytes_are_stable(name: str) -> None:
    """Encode, decode, encode: the same bytes."""
    once = codec.encode(codec.convert(MESSAGES[name], example(name)))
    assert once == codec.encode(codec.decode(MESSAGES[name], once))


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_every_example_satisfies_its_schema(name: str) -> None:
    """The generated schema accepts the example, as written and as re-encoded, and is itself a valid schema."""
    judge = jsonschema.Draft202012Validator(json.loads(GENERATED[f"messages/{name}.json"]))
    judge.check_schema(judge.schema)
    judge.validate(example(name))
    judge.validate(codec.to_document(codec.convert(MESSAGES[name], example(name))))


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_schema_refuses_what_the_decoder_refuses(name: str) -> None:
    """Without any one required field neither the schema nor the decoder accepts the example."""
    judge = jsonschema.Draft202012Validator(json.loads(GENERATED[f"messages/{name}.json"]))
    document = example(name)
    required = [field.encode_name for field in msgspec.structs.fields(MESSAGES[name]) if field.required]
    assert required
    for field in required:
        cut = {key: value for key, value in document.items() if key != field}
        assert not judge.is_valid(cut), field
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(cut, MESSAGES[name], dec_hook=codec.unit_from_text)


def test_asyncapi_names_every_topic_with_its_messages() -> None:
    """One channel a topic of the catalogue, carrying its messages and partition count; every reference resolves."""
    document = json.loads(GENERATED["asyncapi.json"])
    channels = document["channels"]
    assert [spec.topic.value for spec in topics.CATALOGUE.values()] == list(channels)
    for spec in topics.CATALOGUE.values():
        channel = channels[spec.topic.value]
        assert [message.__name__ for message in spec.messages] == list(channel["messages"])
        assert spec.partitions == channel["bindings"]["kafka"]["partitions"]
    for reference in references(document):
        target: Any = document
        for step in reference.removeprefix("#/").split("/"):
            target = target[step]


def references(node: Any) -> list[str]:
    """Every `$ref` below a node."""
    if isinstance(node, dict):
        own = [node["$ref"]] if "$ref" in node else []
        return own + [found for value in node.values() for found in references(value)]
    if isinstance(node, list):
        return [found for value in node for found in references(value)]
    return []
