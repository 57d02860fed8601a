package local

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"

	"pubsub"

	"github.com/cockroachdb/pebble/v2"
)

// contents are the contents of a database.
type contents struct {
	exists     bool   // there is a database
	unflushed  int64  // bytes of its logs that the engine writes to tables at the start
	generation uint64 // 0 in a new database
	highWater  uint64 // sequence numbers below it may be in use
	keys       []pubsub.Key
	badKeys    map[string]error // errors of keys whose records cannot be read, by id
	figures    *figures
}

// inspect reads a whole database without changing a file, so that damage is found before
// anything is written. A database that does not exist is empty.
func inspect(d *directory, diskTotal int64) (contents, error) {
	logs, exists, err := checkFiles(d)
	if err != nil || !exists {
		return contents{figures: &figures{}}, err
	}
	report, fatal := func(string, error) {}, func(error) {} // scan returns the failures
	o := engineOptions(d, diskTotal, maxTables, report, fatal)
	o.ReadOnly = true
	var replayed []uint64
	o.Logger = logger{report: report, fatal: fatal, replayed: func(log uint64) { replayed = append(replayed, log) }}
	o.EnsureDefaults()
	db, err := pebble.Open(d.store, o)
	if err != nil {
		if torn := logs.torn(); torn != nil && pebble.IsCorruptionError(err) {
			return contents{}, torn
		}
		return contents{}, openError(d, err)
	}
	var c contents
	logs = logs.only(replayed)
	err = logs.checkNeeded(d)
	if err == nil {
		err = checkTables(d, db, o)
	}
	if err == nil {
		c, err = scan(db)
	}
	c.exists, c.unflushed = true, logs.size()
	if e := db.Close(); err == nil {
		err = damaged(e)
	}
	if err != nil && !strings.Contains(err.Error(), d.store) {
		err = fmt.Errorf("%s: %w", d.store, err)
	}
	return c, err
}

// scan reads all records of db.
func scan(db *pebble.DB) (c contents, err error) {
	c.figures, c.badKeys = &figures{}, map[string]error{}
	it, err := db.NewIter(nil)
	if err != nil {
		return c, damaged(err)
	}
	defer func() {
		if e := it.Close(); err == nil {
			err = damaged(e)
		}
	}()
	var records int
	var newest uint64 // the highest sequence number of a record
	for it.First(); it.Valid(); it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return c, damaged(err)
		}
		switch key := it.Key(); {
		case bytes.Equal(key, generationKey):
			if c.generation, err = parseNumber(value); err != nil {
				return c, err
			}
			continue
		case bytes.Equal(key, highWaterKey):
			if c.highWater, err = parseNumber(value); err != nil {
				return c, err
			}
			continue
		case key[0] == prefixKey:
			id := string(key[1:])
			if k, err := parseKey(id, value); err != nil {
				c.badKeys[id] = err // the other keys work
			} else {
				c.keys = append(c.keys, k)
			}
		case key[0] == prefixMessage:
			_, h, err := parseRecord("", 0, value)
			if err != nil {
				return c, err
			}
			newest = max(newest, h.seq)
			c.figures.count(&h, len(key)+len(value), 1)
		case key[0] != prefixExpiry:
			return c, fmt.Errorf("%w: a record is of the unknown kind %#x; use a later release", ErrNewerFormat, key[0])
		}
		records++
	}
	switch {
	case it.Error() != nil:
		return c, damaged(it.Error())
	case c.generation == 0 && (records != 0 || c.highWater != 0):
		return c, fmt.Errorf("%w: there are %d records but no generation; %s", ErrCorrupt, records, remedy)
	case c.generation != 0 && c.highWater <= newest:
		return c, fmt.Errorf("%w: a record has the number %d, but only numbers below %d were in use; %s", ErrCorrupt, newest, c.highWater, remedy)
	}
	return c, nil
}

func parseNumber(b []byte) (uint64, error) {
	if len(b) != 8 || binary.BigEndian.Uint64(b) == 0 {
		return 0, fmt.Errorf("%w: number of %d bytes; %s", ErrCorrupt, len(b), remedy)
	}
	return binary.BigEndian.Uint64(b), nil
}
