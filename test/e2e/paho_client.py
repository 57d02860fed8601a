"""Subscribes with Paho's Python client over a WebSocket, publishes one message at
QoS 1, and prints what happens, a line each. The arguments are HOST PORT TOKEN TOPIC.
"""

import sys

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

host, port, token, topic = sys.argv[1:]


def say(*words):
    print(*words, flush=True)


def connected(client, userdata, flags, reason, properties):
    say("CONNACK", reason)
    client.subscribe(topic, qos=1)


def subscribed(client, userdata, mid, reasons, properties):
    say("SUBACK", *reasons)
    client.publish(topic, "hello", qos=1)


client = mqtt.Client(
    CallbackAPIVersion.VERSION2,
    client_id="paho-python",
    protocol=mqtt.MQTTv5,
    transport="websockets",
)
client.ws_set_options(path="/mqtt")
client.username_pw_set("token", token)
client.on_connect = connected
client.on_subscribe = subscribed
client.on_publish = lambda client, userdata, mid, reason, properties: say("PUBACK", reason)
client.on_message = lambda client, userdata, m: say("PUBLISH", m.payload.decode())
client.on_disconnect = lambda client, userdata, flags, reason, properties: say("DISCONNECT", reason)
client.connect(host, int(port), keepalive=60)
client.loop_forever(retry_first_connection=False)
