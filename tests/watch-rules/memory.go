package main

import (
	"context"
	"slices"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
)

// memory keeps a test's series. Prometheus' own database brings all of its configuration.
type memory struct {
	series []series
}

type series struct {
	labels  labels.Labels
	samples []chunks.Sample
}

// point is a number at a time.
type point struct {
	time  int64
	value float64
}

func (p point) T() int64                    { return p.time }
func (point) ST() int64                     { return 0 }
func (p point) F() float64                  { return p.value }
func (point) H() *histogram.Histogram       { return nil }
func (point) FH() *histogram.FloatHistogram { return nil }
func (point) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (p point) Copy() chunks.Sample         { return p }

func (m *memory) add(of labels.Labels, values []parser.SequenceValue, interval time.Duration) {
	one := series{labels: of}
	for place, value := range values {
		if !value.Omitted {
			one.samples = append(one.samples, point{int64(place) * interval.Milliseconds(), value.Value})
		}
	}
	m.series = append(m.series, one)
}

// Querier makes memory a storage.Queryable.
func (m *memory) Querier(from, to int64) (storage.Querier, error) { return querier{m, from, to}, nil }

type querier struct {
	memory   *memory
	from, to int64
}

func (q querier) Select(
	_ context.Context, _ bool, _ *storage.SelectHints, matchers ...*labels.Matcher,
) storage.SeriesSet {
	set := &set{at: -1}
	for _, one := range q.memory.series {
		fits := func(matcher *labels.Matcher) bool { return matcher.Matches(one.labels.Get(matcher.Name)) }
		if slices.ContainsFunc(matchers, func(matcher *labels.Matcher) bool { return !fits(matcher) }) {
			continue
		}
		within := slices.DeleteFunc(slices.Clone(one.samples), func(sample chunks.Sample) bool {
			return sample.T() < q.from || sample.T() > q.to
		})
		if len(within) > 0 {
			set.series = append(set.series, storage.NewListSeries(one.labels, within))
		}
	}
	return set
}

func (querier) LabelValues(
	context.Context, string, *storage.LabelHints, ...*labels.Matcher,
) ([]string, annotations.Annotations, error) {
	return nil, nil, nil
}

func (querier) LabelNames(
	context.Context, *storage.LabelHints, ...*labels.Matcher,
) ([]string, annotations.Annotations, error) {
	return nil, nil, nil
}

func (querier) Close() error { return nil }

type set struct {
	series []storage.Series
	at     int
}

func (s *set) Next() bool                        { s.at++; return s.at < len(s.series) }
func (s *set) At() storage.Series                { return s.series[s.at] }
func (s *set) Err() error                        { return nil }
func (s *set) Warnings() annotations.Annotations { return nil }
