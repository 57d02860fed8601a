//go:build race

package nats

const race = true
