"""The station as one device in Home Assistant, by MQTT device discovery. Values come from the
health topic and the topics of last detections.

A template that renders nothing leaves the value in Home Assistant unchanged. Knows no connection.
"""

import json
from collections.abc import Mapping
from typing import Any, get_args

from edge.types import ClockState

_UNIT = "unit_of_measurement"
_SECONDS = {"device_class": "duration", _UNIT: "s", "suggested_display_precision": 0}
_MEASURED = {"state_class": "measurement"}
_DIAGNOSTIC = {"entity_category": "diagnostic"}
# key of the health message -> name and further options; null becomes `unknown` in Home Assistant
_HEALTH: dict[str, tuple[str, dict[str, Any]]] = {
    "detections_today": (
        "Detections today",
        {"icon": "mdi:bird", "state_class": "total_increasing"},
    ),
    "lost_today_s": ("Lost today", {**_SECONDS, **_DIAGNOSTIC, "state_class": "total_increasing"}),
    "lag_s": ("Lag", {**_SECONDS, **_DIAGNOSTIC, **_MEASURED, "suggested_display_precision": 1}),
    "level_dbfs": (
        "Input level",
        {_UNIT: "dBFS", "icon": "mdi:microphone", **_DIAGNOSTIC, **_MEASURED},
    ),
    "disk_free_mb": (
        "Disk free",
        {"device_class": "data_size", _UNIT: "MB", **_DIAGNOSTIC, **_MEASURED},
    ),
    "temperature_c": (
        "Temperature",
        {"device_class": "temperature", _UNIT: "°C", **_DIAGNOSTIC, **_MEASURED},
    ),
    "mqtt.waiting": ("Waiting messages", {"icon": "mdi:tray-full", **_DIAGNOSTIC, **_MEASURED}),
    "clock_state": (
        "Clock",
        {"device_class": "enum", "options": list(get_args(ClockState)), **_DIAGNOSTIC},
    ),
    "runtime": ("Runtime", {"icon": "mdi:chip", **_DIAGNOSTIC}),
}


def discovery(
    station: str,
    version: str,
    detection: str,
    status: str,
    health: str,
    last: Mapping[str, str],
    expiry_s: int,
) -> str:
    """Payload of PREFIX/device/birdstation_STATION/config. `last` has the topic of each source's
    last detection; a health message is valid for `expiry_s`."""
    components = {}
    for key, (name, options) in _HEALTH.items():
        components[key.replace(".", "_")] = {
            "platform": "sensor",
            "name": name,
            "value_template": f"{{{{ value_json.{key} }}}}",
            "expire_after": expiry_s,
            **options,
        }
    components["problem"] = {
        "platform": "binary_sensor",
        "name": "Problem",
        "device_class": "problem",
        "value_template": "{{ 'OFF' if value_json.state == 'ok' else 'ON' }}",
        "json_attributes_topic": health,
        "json_attributes_template": "{{ {'state': value_json.state, 'problems': "
        "value_json.problems} | tojson }}",
        "expire_after": expiry_s,
        **_DIAGNOSTIC,
    }
    for source, topic in last.items():
        components |= _of_source(source, topic, detection, f" ({source})" if len(last) > 1 else "")
    for key, component in components.items():
        component |= {"unique_id": f"birdstation_{station}_{key}"}
    device = {
        "identifiers": [f"birdstation_{station}"],
        "name": f"birdstation {station}",
        "manufacturer": "birdstation",
        "model": "field station",
        "sw_version": version,
    }
    payload = {
        "device": device,
        "origin": {"name": "birdstation", "sw_version": version},
        "availability_topic": status,
        "state_topic": health,
        "qos": 1,
        "components": components,
    }
    return json.dumps(payload, ensure_ascii=False)


def _of_source(source: str, last: str, detection: str, suffix: str) -> dict[str, dict[str, Any]]:
    return {
        f"last_species_{source}": {
            "platform": "sensor",
            "name": f"Last species{suffix}",
            "icon": "mdi:bird",
            "state_topic": last,
            "value_template": "{{ value_json.common_name }}",
            "json_attributes_topic": last,
        },
        f"last_score_{source}": {
            "platform": "sensor",
            "name": f"Last score{suffix}",
            "icon": "mdi:gauge",
            "state_topic": last,
            "value_template": "{{ value_json.score }}",
            "suggested_display_precision": 2,
            **_MEASURED,
        },
        f"detection_{source}": {
            "platform": "event",
            "name": f"Detection{suffix}",
            "icon": "mdi:bird",
            "state_topic": detection,
            "event_types": ["detection"],
            "value_template": (
                f"{{% if value_json.source == '{source}' %}}{{{{ dict(value_json, "
                "event_type='detection') | tojson }}{% endif %}"
            ),
        },
    }
