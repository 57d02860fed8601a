package app

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"pubsub/internal/config"
)

// adminTokenFile is where the admin token is kept that nobody gave, in the data
// directory.
const adminTokenFile = "admin-token"

// adminToken returns the admin token: the one that was given, else the one kept
// in the data directory, which is made if it is not there. In memory one is made
// for the run, and printed. In a cluster none is made, for all nodes must have the
// same; the error is a [*config.Problem].
func (n *node) adminToken() (string, error) {
	if n.cfg.AdminToken != "" {
		return string(n.cfg.AdminToken), nil
	}
	if n.clustered() {
		if !n.cfg.Admin {
			return "", nil // nobody is an administrator on this node
		}
		return "", &config.Problem{Name: "admin-token", Text: "admin-token is missing, which all nodes of a cluster must be given, the same; " +
			"set $" + config.Variable("admin-token") + " or admin-token-file, or admin to false"}
	}
	if n.cfg.InMemory {
		token := rand.Text()
		fmt.Fprintf(n.out, "Admin token of this run: %s\n", token)
		return token, nil
	}
	path := filepath.Join(string(n.cfg.DataDir), adminTokenFile)
	switch token, err := config.ReadToken(path); {
	case err == nil:
		n.warnOfReaders(path)
		return token, nil
	case !errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("%s %w: delete it to have a new one made", path, err)
	}
	token := rand.Text()
	if err := writeNew(path, token+"\n"); err != nil {
		return "", fmt.Errorf("cannot keep a new admin token: %w", err)
	}
	n.log.Info("admin token made", "file", path)
	return token, nil
}

// warnOfReaders says so if others than its owner can read the file of the admin
// token. That is no reason to end: whoever let them may have meant it.
func (n *node) warnOfReaders(path string) {
	if runtime.GOOS == "windows" {
		return // where the mode says nothing of them
	}
	if fi, err := os.Stat(path); err == nil && fi.Mode().Perm()&0o077 != 0 {
		n.log.Warn("admin token file readable by others", "file", path, "mode", fi.Mode().Perm().String(),
			"advice", "chmod 600 the file, and delete it to have a new token made if others may have read it")
	}
}

// writeNew makes a file that only its owner can read: whole, or not at all.
func writeNew(path, content string) error {
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return os.Rename(tmp, path)
}
