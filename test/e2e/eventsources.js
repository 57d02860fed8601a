// Event-source libraries in Node. The first argument selects one.

import * as fetchEventSource from '@microsoft/fetch-event-source'
import * as eventsourceClient from 'eventsource-client'
import eventsource2 from 'eventsource2'
import { EventSource as EventSource4 } from 'eventsource4'
import { EventSource as UndiciEventSource } from 'undici'
import { emit, serve } from './lines.js'

const kinds = ['stream-open', 'keep-alive', 'message', 'stream-error']

const tell = (kind, data, id) =>
  emit({ kind: kind || 'message', text: data, id: id ?? '' })

// standard listens with a class that works like the browsers' EventSource.
const standard = (EventSource) => (url) => {
  const source = new EventSource(url)
  for (const kind of kinds) {
    source.addEventListener(kind, (e) => tell(kind, e.data, e.lastEventId))
  }
}

const libraries = {
  'eventsource 2': standard(eventsource2),
  'eventsource 4': standard(EventSource4),
  undici: standard(UndiciEventSource),
  'eventsource-client': (url) => {
    eventsourceClient.createEventSource({ url, onMessage: ({ event, data, id }) => tell(event, data, id) })
  },
  '@microsoft/fetch-event-source': (url) => {
    // The library is written for browsers and needs these.
    globalThis.window = globalThis
    globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} }
    fetchEventSource
      .fetchEventSource(url, {
        openWhenHidden: true,
        onmessage: ({ event, data, id }) => tell(event, data, id),
      })
      .then(
        () => emit({ kind: 'resolved' }),
        (error) => emit({ kind: 'rejected', text: String(error) }),
      )
  },
}

const listen = libraries[process.argv[2]]
await serve((_, { url }) => listen(url))
process.exit(0)
