// A reverse proxy as web applications have it: express, with compression, on the port
// that is the first argument, in front of the broker whose URL is the second.

import compression from 'compression'
import express from 'express'
import { createProxyMiddleware } from 'http-proxy-middleware'

const [port, target] = process.argv.slice(2)
const app = express()
app.use(compression())
app.use(createProxyMiddleware({ target, changeOrigin: true }))
app.listen(Number(port), '127.0.0.1', () => console.log('listening'))
