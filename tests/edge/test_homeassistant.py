"""The announcement to Home Assistant: by the schema of its documentation, and what its templates
make of messages."""

import json
from typing import Any

import jsonschema
import pytest
from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edge.publisher.homeassistant import discovery

# From https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload and the pages of
# sensor.mqtt, binary_sensor.mqtt and event.mqtt: which options exist, which are required. Home
# Assistant refuses unknown ones of a device, an origin and at the root, and removes them from
# components; here they are refused everywhere.
_TEXT = {"type": "string", "minLength": 1}
_TOPIC = {"type": "string", "pattern": "^[^#+]+$"}
_COMPONENT = {
    "unique_id": _TEXT,
    "name": {"type": ["string", "null"]},
    "icon": {"type": "string", "pattern": "^mdi:[a-z-]+$"},
    "state_topic": _TOPIC,
    "value_template": _TEXT,
    "json_attributes_topic": _TOPIC,
    "json_attributes_template": _TEXT,
    "entity_category": {
        "const": "diagnostic"
    },  # of what only says something, `config` is not allowed
}
_SENSOR = {
    "platform": {"const": "sensor"},
    "device_class": {"enum": ["duration", "data_size", "temperature", "enum"]},
    "unit_of_measurement": _TEXT,
    "state_class": {"enum": ["measurement", "total", "total_increasing"]},
    "suggested_display_precision": {"type": "integer", "minimum": 0},
    "options": {"type": "array", "items": _TEXT, "minItems": 1},
    "expire_after": {"type": "integer", "minimum": 0},
}
_BINARY = {
    "platform": {"const": "binary_sensor"},
    "device_class": {"enum": ["problem", "connectivity"]},
    "expire_after": {"type": "integer", "minimum": 0},
}
_EVENT = {
    "platform": {"const": "event"},
    "event_types": {"type": "array", "items": _TEXT, "minItems": 1},
}


def _of(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


_SCHEMA = _of(
    {
        "device": {
            **_of(
                {
                    "identifiers": {"type": ["string", "array"], "minItems": 1, "items": _TEXT},
                    "name": _TEXT,
                    "manufacturer": _TEXT,
                    "model": _TEXT,
                    "sw_version": _TEXT,
                }
            ),
            "anyOf": [{"required": ["identifiers"]}, {"required": ["connections"]}],
        },
        "origin": _of({"name": _TEXT, "sw_version": _TEXT, "support_url": _TEXT}, "name"),
        "availability_topic": _TOPIC,
        "state_topic": _TOPIC,
        "qos": {"enum": [0, 1, 2]},
        "components": {
            "type": "object",
            "additionalProperties": {
                "oneOf": [
                    _of(_COMPONENT | _SENSOR, "platform", "unique_id"),
                    _of(_COMPONENT | _BINARY, "platform", "unique_id"),
                    _of(_COMPONENT | _EVENT, "platform", "unique_id", "event_types", "state_topic"),
                ]
            },
        },
    },
    "device",
    "origin",
    "components",
)
_UNITS = {"duration": {"s"}, "data_size": {"MB"}, "temperature": {"°C"}, "enum": {None}}

HEALTH: dict[str, Any] = {
    "state": "degraded",
    "problems": ["The broker's away"],
    "detections_today": 12,
    "lost_today_s": 3.5,
    "lag_s": None,
    "level_dbfs": -43.2,
    "disk_free_mb": 5120.0,
    "temperature_c": None,
    "mqtt": {"waiting": 7},
    "clock_state": "synced",
    "runtime": "onnx",
}
DETECTION = {
    "source": "microphone",
    "common_name": "D'Arnaud's Barbet",
    "score": 0.873,
    "queued": False,
}


@pytest.fixture(params=[("microphone",), ("microphone", "folder")])
def payload(request: pytest.FixtureRequest) -> dict[str, Any]:
    last = {source: f"b/v1/porch/source/{source}/last" for source in request.param}
    text = discovery(
        "porch", "1.0", "b/v1/porch/detection", "b/v1/porch/status", "b/v1/porch/health", last, 90
    )
    return dict(json.loads(text))


def test_the_announcement_is_as_documented(payload: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(_SCHEMA).validate(payload)
    components = payload["components"]
    ids = [component["unique_id"] for component in components.values()]
    assert len(set(ids)) == len(ids)
    names = [component["name"] for component in components.values()]
    assert len(set(names)) == len(names), "one device has no two entities of a name"
    for component in components.values():
        if component["platform"] == "sensor" and "device_class" in component:
            assert component.get("unit_of_measurement") in _UNITS[component["device_class"]]
            assert (component["device_class"] == "enum") == ("options" in component)
            assert not (component["device_class"] == "enum" and "state_class" in component)


def test_the_schema_refuses_what_home_assistant_refuses(payload: dict[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator(_SCHEMA)
    for path, value in (
        ("origin", {}),
        ("device", {"name": "x"}),
        ("components", {"a": {"platform": "sensor"}}),
    ):
        assert not validator.is_valid(payload | {path: value}), path


def rendered(template: str, message: dict[str, Any]) -> str:
    """As Home Assistant does it: Jinja in a sandbox, the message as value_json; spaces around are
    cut off."""
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
    return environment.from_string(template).render(value_json=message).strip()


def test_templates_find_their_values(payload: dict[str, Any]) -> None:
    components = payload["components"]
    values = {}
    for key, component in components.items():
        message = DETECTION if "state_topic" in component else HEALTH
        values[key] = rendered(component["value_template"], message)
    expected = {
        "detections_today": "12",
        "lost_today_s": "3.5",
        "lag_s": "None",
        "level_dbfs": "-43.2",
    }
    expected |= {
        "disk_free_mb": "5120.0",
        "temperature_c": "None",
        "mqtt_waiting": "7",
        "clock_state": "synced",
    }
    expected |= {"runtime": "onnx", "problem": "ON"}
    expected |= {"last_species_microphone": "D'Arnaud's Barbet", "last_score_microphone": "0.873"}
    assert expected.items() <= values.items()
    assert rendered(components["problem"]["value_template"], HEALTH | {"state": "ok"}) == "OFF"
    attributes = json.loads(rendered(components["problem"]["json_attributes_template"], HEALTH))
    assert attributes == {"state": "degraded", "problems": ["The broker's away"]}
    assert set(components["clock_state"]["options"]) >= {"synced", "unsynced"}


def test_the_event_has_its_type_and_keeps_the_detection(payload: dict[str, Any]) -> None:
    event = payload["components"]["detection_microphone"]
    found = json.loads(rendered(event["value_template"], DETECTION))
    assert found.pop("event_type") in event["event_types"]
    assert found == DETECTION


def test_a_foreign_detection_says_nothing(payload: dict[str, Any]) -> None:
    """Nothing, not `None`: Home Assistant drops an empty event and keeps what it had."""
    event = payload["components"]["detection_microphone"]
    assert rendered(event["value_template"], DETECTION | {"source": "replay"}) == ""
    for component in payload["components"].values():
        if component["name"].startswith("Last"):
            assert component["state_topic"].endswith("/last"), (
                "a topic that has no foreign messages"
            )
