//! Subscribes with rumqttc, publishes one message at QoS 1, and prints a line for each
//! event until the connection ends. The arguments are URL TOKEN TOPIC.

use rumqttc::v5::mqttbytes::{v5::Packet, QoS};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use rumqttc::Transport;
use std::time::Duration;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let (url, token, topic) = (&args[1], &args[2], &args[3]);
    let mut options = MqttOptions::new("rumqttc", url, 0);
    options.set_transport(Transport::Ws);
    options.set_credentials("token", token);
    options.set_keep_alive(Duration::from_secs(60));
    let (client, mut events) = AsyncClient::new(options, 16);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        client.subscribe(topic, QoS::AtLeastOnce).await.unwrap();
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(ack))) => println!("CONNACK {:?}", ack.code),
                Ok(Event::Incoming(Packet::SubAck(ack))) => {
                    println!("SUBACK {:?}", ack.return_codes);
                    client
                        .publish(topic, QoS::AtLeastOnce, false, "hello")
                        .await
                        .unwrap();
                }
                Ok(Event::Incoming(Packet::PubAck(ack))) => println!("PUBACK {:?}", ack.reason),
                Ok(Event::Incoming(Packet::Publish(p))) => {
                    println!("PUBLISH {}", String::from_utf8_lossy(&p.payload))
                }
                Ok(_) => {}
                Err(e) => {
                    println!("error {e}");
                    return;
                }
            }
        }
    });
}
