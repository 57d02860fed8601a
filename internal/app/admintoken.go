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

// adminTokenFile is the file in the data directory with an admin token that the broker has
// created.
const adminTokenFile = "admin-token"

// requireAdminToken returns a [*config.Problem] if the settings of a node of a cluster have no
// admin token. No node can create one, because all nodes need the same one.
func (n *node) requireAdminToken() error {
	if !n.clustered() || !n.cfg.Admin || n.cfg.AdminToken != "" {
		return nil
	}
	return &config.Problem{Name: "admin-token", Text: "admin-token is missing, and all nodes of a cluster need the same one; " +
		"set $" + config.Variable("admin-token") + " or admin-token-file, or set admin to false"}
}

// adminToken returns the admin token. If the settings have none, it is the one in the data
// directory, which is created if it is missing. A broker in memory creates and prints one.
func (n *node) adminToken() (string, error) {
	if n.cfg.AdminToken != "" || n.clustered() {
		return string(n.cfg.AdminToken), nil
	}
	if n.cfg.InMemory {
		token := rand.Text()
		fmt.Fprintf(n.out, "Admin token of this run: %s\n", token)
		return token, nil
	}
	path := filepath.Join(string(n.cfg.DataDir), adminTokenFile)
	switch token, err := config.ReadToken(path); {
	case err == nil:
		n.checkTokenMode(path)
		return token, nil
	case !errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("%s %w; delete the file to have a new token created", path, err)
	}
	token := rand.Text()
	if err := writeNew(path, token+"\n"); err != nil {
		return "", fmt.Errorf("cannot save a new admin token: %w", err)
	}
	n.log.Info("admin token created", "file", path)
	return token, nil
}

// checkTokenMode logs a warning if users other than its owner can read the file of the admin
// token. The broker starts anyway, because that may be intended.
func (n *node) checkTokenMode(path string) {
	if runtime.GOOS == "windows" {
		return // its modes have no permissions of others
	}
	if fi, err := os.Stat(path); err == nil && fi.Mode().Perm()&0o077 != 0 {
		n.log.Warn("admin token file readable by others", "file", path, "mode", fi.Mode().Perm().String(),
			"advice", "run chmod 600 on the file; if others may have read it, delete it to have a new token created")
	}
}

// writeNew writes a file that only its owner can read, whole or not at all.
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
