// The conversation with the test, in lines of JSON. The test sends {id, do, with},
// and the answer is {id, result} or {id, error}. Events are {event}.

import { createInterface } from 'node:readline'

const write = (value) => process.stdout.write(JSON.stringify(value) + '\n')

export const emit = (event) => write({ event })

// serve answers until standard input ends.
export async function serve(handle) {
  const running = new Set()
  for await (const line of createInterface({ input: process.stdin })) {
    const { id, do: name, with: argument } = JSON.parse(line)
    const call = Promise.resolve()
      .then(() => handle(name, argument))
      .then(
        (result) => write({ id, result: result ?? null }),
        (error) => write({ id, error: String(error?.stack ?? error) }),
      )
      .finally(() => running.delete(call))
    running.add(call)
  }
}
