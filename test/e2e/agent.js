// A JavaScript client under the control of a test, in Node or in a browser. Each
// function of the agent takes one object and may return a promise of a value.
// Events of the client go to emit. Payloads are base64 between the test and the
// client.

const toBase64 = (bytes) => btoa(String.fromCharCode(...bytes))
const fromBase64 = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0))

// once returns a promise of the next event of that name of an EventTarget.
const once = (target, type) =>
  new Promise((resolve) => target.addEventListener(type, resolve, { once: true }))

export function newAgent(mqtt, emit) {
  let client // of MQTT.js
  const sources = [] // EventSources

  return {
    // MQTT.js

    // connect resolves to the CONNACK of the first connection.
    connect({ url, options }) {
      client = mqtt.connect(url, { protocolVersion: 5, reconnectPeriod: 200, ...options })
      client.on('connect', (connack) => emit({ kind: 'connect', connack }))
      client.on('disconnect', (packet) => emit({ kind: 'disconnect', reason: packet.reasonCode }))
      client.on('close', () => emit({ kind: 'close' }))
      client.on('error', (error) => emit({ kind: 'error', text: String(error), reason: error.code }))
      client.on('message', (topic, payload, packet) => {
        const p = packet.properties ?? {}
        emit({
          kind: 'message',
          topic,
          payload: toBase64(payload),
          retain: packet.retain,
          qos: packet.qos,
          properties: {
            contentType: p.contentType,
            responseTopic: p.responseTopic,
            correlationData: p.correlationData && toBase64(p.correlationData),
            userProperties: p.userProperties,
            messageExpiryInterval: p.messageExpiryInterval,
            payloadFormatIndicator: p.payloadFormatIndicator,
            subscriptionIdentifier: p.subscriptionIdentifier,
          },
        })
      })
      return new Promise((resolve, reject) => {
        client.once('connect', (connack) =>
          resolve({ sessionPresent: connack.sessionPresent, properties: connack.properties }))
        client.once('error', reject)
        client.once('close', () => reject(new Error('closed before CONNACK')))
      })
    },

    // subscribe resolves to the reason codes of the SUBACK. It also sends a SUBSCRIBE
    // for a subscription that MQTT.js already has.
    async subscribe({ topics, options = {} }) {
      const { properties, ...rest } = options
      const map = Object.fromEntries(
        topics.map((topic) => [topic, { qos: 0, nl: false, rap: false, rh: 0, ...rest }]))
      return new Promise((resolve, reject) => {
        client.subscribe({ ...map, resubscribe: true }, { properties }, (error, _, packet) =>
          packet ? resolve([...packet.granted]) : reject(error ?? new Error('no SUBACK')))
      })
    },

    // unsubscribe resolves to the reason codes of the UNSUBACK.
    async unsubscribe({ topics }) {
      const packet = await client.unsubscribeAsync(topics)
      return [...packet.granted]
    },

    async publish({ topic, payload, options = {} }) {
      const properties = { ...options.properties }
      if (properties.correlationData) {
        properties.correlationData = mqttBuffer(mqtt, fromBase64(properties.correlationData))
      }
      await client.publishAsync(topic, mqttBuffer(mqtt, fromBase64(payload)), { ...options, properties })
    },

    async end() {
      await client.endAsync()
    },

    // The browser itself

    // listen resolves when the stream is open, or refused. With stay, it reconnects
    // after an error.
    async listen({ url, stay }) {
      const source = new EventSource(url)
      const index = sources.push(source) - 1
      const kinds = ['stream-open', 'message', 'message-base64', 'messages-dropped', 'stream-error']
      for (const kind of kinds) {
        source.addEventListener(kind, (e) => {
          const payload =
            kind === 'message-base64' ? e.data : toBase64(new TextEncoder().encode(e.data))
          emit({ kind, payload, id: e.lastEventId, source: index })
          if (kind === 'stream-error' && !stay) source.close()
        })
      }
      await Promise.race([once(source, 'stream-open'), once(source, 'stream-error')])
    },

    async post({ url, token, payload }) {
      const response = await fetch(url, {
        method: 'POST',
        headers: { Authorization: `Bearer ${token}` },
        body: fromBase64(payload),
      })
      return {
        status: response.status,
        body: await response.text(),
        version: response.headers.get('Pubsub-Version'),
      }
    },
  }
}

// mqttBuffer returns bytes for MQTT.js: a Buffer, if the platform has it.
function mqttBuffer(mqtt, bytes) {
  return globalThis.Buffer ? globalThis.Buffer.from(bytes) : bytes
}
