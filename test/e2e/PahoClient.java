// Subscribes with Paho's Java client over a WebSocket, publishes one message at QoS 1,
// and prints a line for each event. The arguments are URL TOKEN TOPIC.

import java.nio.charset.StandardCharsets;
import org.eclipse.paho.mqttv5.client.*;
import org.eclipse.paho.mqttv5.client.persist.MemoryPersistence;
import org.eclipse.paho.mqttv5.common.*;
import org.eclipse.paho.mqttv5.common.packet.MqttProperties;

public class PahoClient {
    static synchronized void say(String line) {
        System.out.println(line);
        System.out.flush();
    }

    public static void main(String[] args) throws Exception {
        MqttClient client = new MqttClient(args[0], "paho-java", new MemoryPersistence());
        client.setCallback(new MqttCallback() {
            public void disconnected(MqttDisconnectResponse r) { say("DISCONNECT " + r.getReturnCode() + " " + r); }
            public void mqttErrorOccurred(MqttException e) { say("error " + e); }
            public void messageArrived(String topic, MqttMessage m) {
                say("PUBLISH " + new String(m.getPayload(), StandardCharsets.UTF_8));
            }
            public void deliveryComplete(IMqttToken token) { }
            public void connectComplete(boolean again, String uri) { say(again ? "CONNACK again" : "CONNACK Success"); }
            public void authPacketArrived(int reason, MqttProperties p) { }
        });
        MqttConnectionOptions o = new MqttConnectionOptions();
        o.setUserName("token");
        o.setPassword(args[1].getBytes(StandardCharsets.UTF_8));
        o.setKeepAliveInterval(60);
        client.connect(o);
        client.subscribe(args[2], 1);
        say("SUBACK");
        client.publish(args[2], new MqttMessage("hello".getBytes(StandardCharsets.UTF_8), 1, false, new MqttProperties()));
        say("PUBACK Success"); // publish waits for it
    }
}
