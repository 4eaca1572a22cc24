package queue

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func TestPopInOrderOfMoments(t *testing.T) {
	var q Queue
	want := map[string]time.Time{}
	for i := range 500 {
		name := fmt.Sprintf("c-%03d", i%200) // most are set more than once: the last moment counts
		moment := start.Add(time.Duration(rand.IntN(1000)) * time.Minute)
		q.Set(name, moment)
		want[name] = moment
	}
	for i := range 50 {
		q.Remove(fmt.Sprintf("c-%03d", i))
		delete(want, fmt.Sprintf("c-%03d", i))
	}
	q.Remove("never-in")
	if q.Len() != len(want) {
		t.Fatalf("%d clusters, want %d", q.Len(), len(want))
	}
	var last time.Time
	for q.Len() > 0 {
		next, _ := q.Next()
		if name, ok := q.Pop(next.Add(-time.Nanosecond)); ok {
			t.Fatalf("%s came before its moment", name)
		}
		name, ok := q.Pop(next)
		if !ok || !want[name].Equal(next) || next.Before(last) {
			t.Fatalf("popped %s at %s, want %s, after %s", name, next, want[name], last)
		}
		last = next
		delete(want, name)
	}
	if _, ok := q.Next(); ok || len(want) > 0 {
		t.Errorf("left behind: %v", want)
	}
}

func TestAdvanceNeverPutsOff(t *testing.T) {
	var q Queue
	q.Advance("a", start)
	q.Advance("a", start.Add(time.Hour))
	q.Set("b", start.Add(time.Minute))
	q.Advance("b", time.Time{})
	var order []string
	for q.Len() > 0 {
		name, _ := q.Pop(start)
		order = append(order, name)
	}
	if !slices.Equal(order, []string{"b", "a"}) {
		t.Errorf("order %v", order)
	}
}

func BenchmarkRebuild100000(b *testing.B) {
	names := make([]string, 100_000)
	for i := range names {
		names[i] = fmt.Sprintf("edge-%06d", i)
	}
	for b.Loop() {
		var q Queue
		for i, name := range names {
			q.Set(name, start.Add(time.Duration(i*7919%100_000)*time.Second))
		}
	}
}
