package transfer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// WriteFile creates a file, or replaces it, atomically with the output of write. The file
// has a temporary name until it is on disk. Its mode is 0600 from the beginning, because
// it may contain secrets.
func WriteFile(name string, write func(io.Writer) error) error {
	switch fi, err := os.Stat(name); {
	case err == nil && fi.IsDir():
		return fmt.Errorf("%s is a directory; give the name of a file", name)
	case err == nil && !fi.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file and cannot be replaced; use another name", name)
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
