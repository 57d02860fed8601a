// A reverse proxy like that of a web application: express with compression. The
// arguments are its port and the URL of the broker.

import compression from 'compression'
import express from 'express'
import { createProxyMiddleware } from 'http-proxy-middleware'

const [port, target] = process.argv.slice(2)
const app = express()
app.use(compression())
app.use(createProxyMiddleware({ target, changeOrigin: true }))
app.listen(Number(port), '127.0.0.1', () => console.log('listening'))
