// Package queue holds the next moment of every cluster: a heap in which each
// cluster has one place. Looking at what is due costs nothing for the rest.
package queue

import (
	"container/heap"
	"time"
)

// Queue orders clusters by their next moment. The zero value is empty and ready
// for use; it is not safe for concurrent use.
type Queue struct {
	items items
	at    map[string]*item
}

type item struct {
	cluster string
	moment  time.Time
	place   int
}

// Set gives a cluster its next moment in place of the one it had. The zero time
// comes before every other.
func (q *Queue) Set(cluster string, moment time.Time) {
	if q.at == nil {
		q.at = map[string]*item{}
	}
	if it, ok := q.at[cluster]; ok {
		it.moment = moment
		heap.Fix(&q.items, it.place)
		return
	}
	it := &item{cluster: cluster, moment: moment}
	q.at[cluster] = it
	heap.Push(&q.items, it)
}

// Advance gives a cluster this moment unless it has an earlier one.
func (q *Queue) Advance(cluster string, moment time.Time) {
	if it, ok := q.at[cluster]; ok && !moment.Before(it.moment) {
		return
	}
	q.Set(cluster, moment)
}

// Remove takes a cluster out; it has no effect on one that is not in.
func (q *Queue) Remove(cluster string) {
	if it, ok := q.at[cluster]; ok {
		heap.Remove(&q.items, it.place)
		delete(q.at, cluster)
	}
}

// Pop takes out the cluster with the earliest moment, if that has come by now.
func (q *Queue) Pop(now time.Time) (cluster string, ok bool) {
	if len(q.items) == 0 || q.items[0].moment.After(now) {
		return "", false
	}
	it := heap.Pop(&q.items).(*item)
	delete(q.at, it.cluster)
	return it.cluster, true
}

// Next returns the earliest moment; ok is false when the queue is empty.
func (q *Queue) Next() (moment time.Time, ok bool) {
	if len(q.items) == 0 {
		return time.Time{}, false
	}
	return q.items[0].moment, true
}

// Len returns the number of clusters.
func (q *Queue) Len() int { return len(q.items) }

// items implements heap.Interface. Equal moments are ordered by name, so that
// what happens does not depend on the order of insertion.
type items []*item

func (s items) Len() int { return len(s) }

func (s items) Less(i, j int) bool {
	if s[i].moment.Equal(s[j].moment) {
		return s[i].cluster < s[j].cluster
	}
	return s[i].moment.Before(s[j].moment)
}

func (s items) Swap(i, j int) {
	s[i], s[j] = s[j], s[i]
	s[i].place, s[j].place = i, j
}

func (s *items) Push(x any) {
	it := x.(*item)
	it.place = len(*s)
	*s = append(*s, it)
}

func (s *items) Pop() any {
	last := len(*s) - 1
	it := (*s)[last]
	(*s)[last] = nil
	*s = (*s)[:last]
	return it
}
