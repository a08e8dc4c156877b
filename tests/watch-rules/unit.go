package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	engine "github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/template"
	"go.yaml.in/yaml/v3"
)

// Tests is a file of unit tests, as `promtool test rules` takes it; of its fields, those that are used here.
type Tests struct {
	RuleFiles          []string `yaml:"rule_files"`
	EvaluationInterval string   `yaml:"evaluation_interval"`
	Tests              []Test   `yaml:"tests"`
}

// Test is one course of events.
type Test struct {
	Name        string `yaml:"name"`
	Interval    string `yaml:"interval"`
	InputSeries []struct {
		Series string `yaml:"series"`
		Values string `yaml:"values"`
	} `yaml:"input_series"`
	AlertRuleTest []AlertTest `yaml:"alert_rule_test"`
}

// AlertTest is what one alert is to say at one time.
type AlertTest struct {
	EvalTime  string `yaml:"eval_time"`
	Alertname string `yaml:"alertname"`
	ExpAlerts []struct {
		ExpLabels      map[string]string `yaml:"exp_labels"`
		ExpAnnotations map[string]string `yaml:"exp_annotations"`
	} `yaml:"exp_alerts"`
}

// fired is an alert that fires.
type fired struct {
	labels      map[string]string
	annotations map[string]string
}

func testFiles(files []string) error {
	var failures []error
	alerts, passed := map[string]bool{}, 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		var tests Tests
		decoder := yaml.NewDecoder(strings.NewReader(string(text)))
		decoder.KnownFields(true)
		if err := decoder.Decode(&tests); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		var rules []rulefmt.Rule
		for _, name := range tests.RuleFiles {
			groups, err := load(filepath.Join(filepath.Dir(file), name))
			if err != nil {
				return err
			}
			for _, group := range groups.Groups {
				rules = append(rules, group.Rules...)
			}
		}
		for _, test := range tests.Tests {
			if err := test.run(rules, tests.EvaluationInterval); err != nil {
				failures = append(failures, fmt.Errorf("%s: %s: %w", filepath.Base(file), test.Name, err))
				continue
			}
			passed++
			for _, one := range test.AlertRuleTest {
				if len(one.ExpAlerts) > 0 {
					alerts[one.Alertname] = true
				}
			}
		}
	}
	// Which alerts fired somewhere, for whoever holds that against the rules.
	fmt.Println(passed, "passed;", strings.Join(slices.Sorted(maps.Keys(alerts)), " "))
	return errors.Join(failures...)
}

func (test Test) run(rules []rulefmt.Rule, evaluationInterval string) error {
	interval, err := model.ParseDuration(test.Interval)
	if err != nil {
		return err
	}
	every, err := model.ParseDuration(evaluationInterval)
	if err != nil {
		return err
	}
	var store memory
	for _, input := range test.InputSeries {
		of, values, err := promql.ParseSeriesDesc(input.Series + " " + input.Values)
		if err != nil {
			return fmt.Errorf("%s: %w", input.Series, err)
		}
		store.add(of, values, duration(interval))
	}
	queries := engine.NewEngine(engine.EngineOpts{
		MaxSamples: 1_000_000, Timeout: time.Minute, LookbackDelta: 5 * time.Minute, Parser: promql,
		NoStepSubqueryIntervalFn: func(int64) int64 { return duration(every).Milliseconds() },
	})
	var failures []error
	for _, wanted := range test.AlertRuleTest {
		at, err := model.ParseDuration(wanted.EvalTime)
		if err != nil {
			return err
		}
		place := slices.IndexFunc(rules, func(rule rulefmt.Rule) bool { return rule.Alert == wanted.Alertname })
		if place < 0 {
			return fmt.Errorf("there is no alert %s", wanted.Alertname)
		}
		got, err := firing(queries, &store, rules[place], duration(at), duration(every))
		if err != nil {
			return fmt.Errorf("%s: %w", wanted.Alertname, err)
		}
		if err := compare(wanted, got); err != nil {
			failures = append(failures, fmt.Errorf("%s at %s: %w", wanted.Alertname, wanted.EvalTime, err))
		}
	}
	return errors.Join(failures...)
}

func duration(of model.Duration) time.Duration { return time.Duration(of) }

// firing evaluates a rule again and again, as Prometheus does, and tells what fires at the end.
func firing(queries *engine.Engine, store *memory, rule rulefmt.Rule, until, every time.Duration) ([]fired, error) {
	since := map[uint64]time.Duration{}
	var now []fired
	for at := time.Duration(0); at <= until; at += every {
		query, err := queries.NewInstantQuery(context.Background(), store, nil, rule.Expr, time.UnixMilli(0).Add(at))
		if err != nil {
			return nil, err
		}
		result := query.Exec(context.Background())
		vector, err := result.Vector()
		if err != nil {
			return nil, err
		}
		now = nil
		still := map[uint64]time.Duration{}
		for _, sample := range vector {
			of := labels.NewBuilder(sample.Metric).Del(labels.MetricName).Labels()
			began, pending := since[of.Hash()]
			if !pending {
				began = at
			}
			still[of.Hash()] = began
			if at-began < duration(rule.For) {
				continue
			}
			one, err := expand(rule, of, sample, at)
			if err != nil {
				return nil, err
			}
			now = append(now, one)
		}
		since = still
		query.Close()
	}
	return now, nil
}

// expand fills in the texts, with the preamble that Prometheus puts before them (rules/alerting.go).
func expand(rule rulefmt.Rule, of labels.Labels, sample engine.Sample, at time.Duration) (fired, error) {
	const preamble = "{{$labels := .Labels}}{{$externalLabels := .ExternalLabels}}{{$value := .Value}}"
	data := template.AlertTemplateData(of.Map(), nil, "", sample)
	fill := func(texts map[string]string) (map[string]string, error) {
		filled := map[string]string{}
		for name, text := range texts {
			expander := template.NewTemplateExpander(context.Background(), preamble+text, rule.Alert, data,
				model.Time(at.Milliseconds()), nil, &url.URL{}, nil)
			text, err := expander.Expand()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			filled[name] = text
		}
		return filled, nil
	}
	own, err := fill(rule.Labels)
	if err != nil {
		return fired{}, err
	}
	annotations, err := fill(rule.Annotations)
	if err != nil {
		return fired{}, err
	}
	all := of.Map()
	maps.Copy(all, own)
	return fired{labels: all, annotations: annotations}, nil
}

// compare holds what fires against what is to: labels all, and of the annotations those that the test names.
func compare(wanted AlertTest, got []fired) error {
	var missing []string
	for _, one := range wanted.ExpAlerts {
		at := slices.IndexFunc(got, func(other fired) bool {
			return maps.Equal(one.ExpLabels, other.labels) && holds(other.annotations, one.ExpAnnotations)
		})
		if at < 0 {
			missing = append(missing, fmt.Sprintf("%v %v", one.ExpLabels, one.ExpAnnotations))
			continue
		}
		got = slices.Delete(got, at, at+1)
	}
	if len(missing) == 0 && len(got) == 0 {
		return nil
	}
	return fmt.Errorf("does not fire: %s; fires: %v", strings.Join(missing, ", "), got)
}

func holds(all, some map[string]string) bool {
	for name, text := range some {
		if all[name] != text {
			return false
		}
	}
	return true
}
