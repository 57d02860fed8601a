package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// terminalMain is the program "terminal" of the scripts:
//
//	terminal INPUT OUTPUT program [args...]
//
// runs a program on a new terminal, types the content of the file INPUT there, and copies
// the terminal's output to the file OUTPUT. It waits for all of the output, of which the
// command ttyin of testscript may lose the end, and exits with the status of the program.
func terminalMain() {
	status, err := onTerminal(os.Args[1], os.Args[2], os.Args[3:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "terminal:", err)
		status = 99
	}
	os.Exit(status)
}

func onTerminal(input, output string, args []string) (status int, err error) {
	typed, err := os.ReadFile(input)
	if err != nil {
		return 0, err
	}
	out, err := os.Create(output)
	if err != nil {
		return 0, err
	}
	defer out.Close()
	ctrl, tty, err := openTerminal()
	if err != nil {
		return 0, err
	}
	defer ctrl.Close()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Pdeathsig: syscall.SIGKILL}
	err = cmd.Start()
	tty.Close()
	if err != nil {
		return 0, err
	}
	if _, err := ctrl.Write(typed); err != nil {
		return 0, err
	}
	_, _ = io.Copy(out, ctrl) // until EIO, which is the end of file of a terminal
	_ = cmd.Wait()
	return cmd.ProcessState.ExitCode(), nil
}

// openTerminal returns both ends of a new terminal, which neither echoes input nor changes
// output.
func openTerminal() (ctrl, tty *os.File, err error) {
	ctrl, err = os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	n, err := unix.IoctlGetInt(int(ctrl.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(ctrl.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		tty, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|syscall.O_NOCTTY, 0)
	}
	var mode *unix.Termios
	if err == nil {
		mode, err = unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	}
	if err == nil {
		mode.Lflag &^= unix.ECHO
		mode.Oflag &^= unix.OPOST
		err = unix.IoctlSetTermios(int(tty.Fd()), unix.TCSETS, mode)
	}
	if err != nil {
		ctrl.Close()
		return nil, nil, err
	}
	return ctrl, tty, nil
}
