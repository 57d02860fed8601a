package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
)

type versionCmd struct{}

// Help implements [kong.HelpProvider].
func (*versionCmd) Help() string {
	return `
Example:
  pubsub version`
}

// Run prints the version.
func (*versionCmd) Run(p *process) error {
	info, _ := debug.ReadBuildInfo()
	_, err := fmt.Fprintf(p.stdout, "pubsub %s\n", describe(info))
	return err
}

// buildVersion returns the version of the program's main module.
func buildVersion() string {
	info, _ := debug.ReadBuildInfo()
	return moduleVersion(info)
}

func moduleVersion(info *debug.BuildInfo) string {
	if info == nil || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}

// describe returns the version, commit, Go version and platform of a build.
func describe(info *debug.BuildInfo) string {
	parts := []string{moduleVersion(info)}
	if info != nil {
		settings := make(map[string]string)
		for _, s := range info.Settings {
			settings[s.Key] = s.Value
		}
		if c := settings["vcs.revision"]; c != "" {
			if settings["vcs.modified"] == "true" {
				c += " (modified)"
			}
			parts = append(parts, "commit "+c)
		}
	}
	return strings.Join(append(parts, runtime.Version(), runtime.GOOS+"/"+runtime.GOARCH), ", ")
}
