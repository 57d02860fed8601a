package transfer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// WriteFile makes a file of what write writes: whole, or not at all. It has
// another name until it is on the disk, and then replaces what has its name. From
// the first byte nobody but the owner can read it: it may hold secrets.
func WriteFile(name string, write func(io.Writer) error) error {
	switch fi, err := os.Stat(name); {
	case err == nil && fi.IsDir():
		return fmt.Errorf("%s is a directory; name a file in it", name)
	case err == nil && !fi.Mode().IsRegular():
		return fmt.Errorf("%s is no regular file and cannot be replaced; name another", name)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, "."+filepath.Base(name)+".*.part") // mode 0600
	if err != nil {
		return err
	}
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDirectory(dir)
}

// syncDirectory makes the names in a directory durable.
func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
