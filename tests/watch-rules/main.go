// Prometheus' own parser, evaluation and templates over the alerts and dashboards of deploy/helm/coffer/monitoring.
//
//	watch-rules rules FILE…     alerts as JSON, each with what its expression selects
//	watch-rules queries         of a JSON list of PromQL on standard input, what each selects, as JSON
//	watch-rules test FILE…      unit tests, in the form of `promtool test rules`
//
// promtool itself brings the service discoveries of every cloud, and takes ten times as long to compile.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

var promql = parser.NewParser(parser.Options{})

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	switch {
	case len(arguments) > 1 && arguments[0] == "rules":
		return printRules(arguments[1:])
	case len(arguments) == 1 && arguments[0] == "queries":
		return printQueries(os.Stdin)
	case len(arguments) > 1 && arguments[0] == "test":
		return testFiles(arguments[1:])
	}
	return errors.New("watch-rules rules FILE… | queries | test FILE…")
}

// Selector is a metric that an expression reads, with what it asks of the labels.
type Selector struct {
	Metric   string    `json:"metric"`
	Matchers []Matcher `json:"matchers"`
}

// Matcher is one condition on a label.
type Matcher struct {
	Label string `json:"label"`
	Type  string `json:"type"`
	Value string `json:"value"`
}

// Alert is one rule, as a file has it.
type Alert struct {
	File        string            `json:"file"`
	Group       string            `json:"group"`
	Alert       string            `json:"alert"`
	Expr        string            `json:"expr"`
	For         float64           `json:"for"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	Selectors   []Selector        `json:"selectors"`
	// Labels that the expression groups or joins by.
	Grouping []string `json:"grouping"`
}

func printRules(files []string) error {
	var alerts []Alert
	for _, file := range files {
		groups, err := load(file)
		if err != nil {
			return err
		}
		for _, group := range groups.Groups {
			for _, rule := range group.Rules {
				found, err := selectors(rule.Expr)
				if err != nil {
					return fmt.Errorf("%s: %s: %w", file, rule.Alert, err)
				}
				alerts = append(alerts, Alert{
					File: file, Group: group.Name, Alert: rule.Alert, Expr: rule.Expr,
					For: duration(rule.For).Seconds(), Labels: rule.Labels, Annotations: rule.Annotations,
					Selectors: found.selectors, Grouping: found.grouping,
				})
			}
		}
	}
	return json.NewEncoder(os.Stdout).Encode(alerts)
}

// load reads a file as Prometheus does, unknown fields being errors, and tells every mistake.
func load(file string) (*rulefmt.RuleGroups, error) {
	groups, mistakes := rulefmt.ParseFile(file, false, model.UTF8Validation, promql, nil)
	if len(mistakes) > 0 {
		return nil, errors.Join(mistakes...)
	}
	return groups, nil
}

func printQueries(input io.Reader) error {
	var queries []string
	if err := json.NewDecoder(input).Decode(&queries); err != nil {
		return err
	}
	type answer struct {
		Selectors []Selector `json:"selectors"`
		Grouping  []string   `json:"grouping"`
		Error     string     `json:"error,omitempty"`
	}
	answers := make([]answer, len(queries))
	for i, query := range queries {
		found, err := selectors(query)
		if err != nil {
			answers[i].Error = err.Error()
			continue
		}
		answers[i] = answer{Selectors: found.selectors, Grouping: found.grouping}
	}
	return json.NewEncoder(os.Stdout).Encode(answers)
}

type found struct {
	selectors []Selector
	grouping  []string
}

func selectors(query string) (found, error) {
	expression, err := promql.ParseExpr(query)
	if err != nil {
		return found{}, err
	}
	all := found{selectors: []Selector{}, grouping: []string{}}
	parser.Inspect(expression, func(node parser.Node, _ []parser.Node) error {
		switch node := node.(type) {
		case *parser.VectorSelector:
			one := Selector{Metric: node.Name, Matchers: []Matcher{}}
			for _, matcher := range node.LabelMatchers {
				if matcher.Name != labels.MetricName || node.Name == "" {
					one.Matchers = append(one.Matchers, Matcher{matcher.Name, matcher.Type.String(), matcher.Value})
				}
			}
			all.selectors = append(all.selectors, one)
		case *parser.AggregateExpr:
			all.grouping = append(all.grouping, node.Grouping...)
		case *parser.BinaryExpr:
			if node.VectorMatching != nil {
				all.grouping = append(all.grouping, node.VectorMatching.MatchingLabels...)
			}
		}
		return nil
	})
	return all, nil
}
