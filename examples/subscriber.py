"""Print each detection of all stations as it arrives.

python examples/subscriber.py [HOST [PORT]]
"""

import json
import sys
from typing import Any

import paho.mqtt.client as mqtt

host = sys.argv[1] if len(sys.argv) > 1 else "localhost"
port = int(sys.argv[2]) if len(sys.argv) > 2 else 1883


def show(_client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
    heard = json.loads(message.payload)  # docs/mqtt.md has all fields
    print(
        f"{heard['start']}  {heard['station']}  {heard['common_name']}  {heard['score']:.2f}",
        flush=True,
    )


client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
client.on_connect = lambda *_: client.subscribe("birdstation/v1/+/detection", qos=1)
client.on_subscribe = lambda *_: print("subscribed", file=sys.stderr, flush=True)
client.on_message = show
client.connect(host, port)
client.loop_forever()
