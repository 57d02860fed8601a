// MQTT.js in Node.

import mqtt from 'mqtt'
import { newAgent } from './agent.js'
import { emit, serve } from './lines.js'

const agent = newAgent(mqtt, emit)
await serve((name, argument) => agent[name](argument))
process.exit(0)
