// Package mlog stands in for the log library of the Secrets Store CSI driver, which not every module proxy
// serves: it has what that driver calls, and leaves logs to klog, where they come from.
package mlog

import (
	"context"
	"fmt"
	"os"
)

// Format is how a line looks.
type Format string

// The two formats that the driver knows.
const (
	FormatText Format = "text"
	FormatJSON Format = "json"
)

// Setup gives what flushes at the end.
func Setup() func() { return func() {} }

// ValidateAndSetKlogLevelAndFormatGlobally changes nothing.
func ValidateAndSetKlogLevelAndFormatGlobally[L any](context.Context, L, Format) error { return nil }

// Error writes a line.
func Error(message string, err error, details ...any) {
	fmt.Fprintln(os.Stderr, append([]any{message, err}, details...)...)
}

// Fatal writes a line and ends the process.
func Fatal(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
