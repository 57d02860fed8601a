// A page in headless Chromium.

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { chromium } from 'playwright-core'
import { emit, serve } from './lines.js'

const profile = await mkdtemp(join(tmpdir(), 'pubsub-e2e-chromium-'))
const browser = await chromium.launchPersistentContext(profile, {
  executablePath: '/usr/bin/chromium',
  headless: true,
  args: [
    '--no-sandbox', // root in a container has no user namespaces
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--ignore-certificate-errors', // the TLS test signs its own
  ],
})

const page = await browser.newPage()
await page.exposeFunction('emit', emit)
page.on('pageerror', (error) => console.error('page:', error))
page.on('console', (message) => {
  console.error('console:', message.text())
  emit({ kind: 'console', text: message.text() })
})

// The protocol of each response: "http/1.1" or "h2".
const network = await browser.newCDPSession(page)
await network.send('Network.enable')
network.on('Network.responseReceived', ({ response }) =>
  emit({ kind: 'response', url: response.url, protocol: response.protocol }))

// A person's actions; the agent in the page does everything else.
const person = {
  open: ({ url }) => page.goto(url),
  fill: ({ selector, text }) => page.fill(selector, text),
  click: ({ selector }) => page.click(selector),
  texts: ({ selector }) => page.locator(selector).allTextContents(),
  see: ({ text }) => page.getByText(text, { exact: true }).last().waitFor(),
}

await serve(async (name, argument) => {
  if (name in person) {
    return person[name](argument)
  }
  return page.evaluate(([name, argument]) => window.agent[name](argument), [name, argument])
})
await browser.close()
await rm(profile, { recursive: true, force: true })
process.exit(0)
