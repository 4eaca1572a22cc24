package fleet

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

func TestClaim(t *testing.T) {
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	gen := func(number int, step Step, agent string) Generation {
		return Generation{
			Number: number, Step: step, Agent: agent, Key: fmt.Sprintf("key-%d", number), At: now.Add(-Day),
			Certificate: Certificate{NotAfter: now.Add(Day)}, Token: Token{ExpiresAt: now.Add(Day)},
		}
	}
	expired := func(g Generation) Generation {
		g.Certificate.NotAfter = now.Add(-time.Second)
		return g
	}
	recovery := func(g Generation) Generation {
		g.Reason = ReasonRecovery
		return g
	}
	own1, own2 := gen(1, StepProven, ""), gen(2, StepDelivered, "")
	agent1, agent2 := gen(1, StepProven, "a"), gen(2, StepIssued, "a")
	revoked := func(g Generation) Generation {
		g.Revoked = &Revocation{At: now, Reason: KeyCompromise}
		return g
	}
	dead2 := own2
	dead2.Token.ExpiresAt = now
	for _, tt := range []struct {
		name   string
		record []Generation
		claim  Claim
		number int
		repeat bool
		kind   error
	}{
		{"its newest", []Generation{own1}, Claim{Shown: 1, Key: "new"}, 2, false, nil},
		{"not proven yet", []Generation{own1, own2}, Claim{Shown: 2, Key: "new"}, 3, false, nil},
		{"again, F28", []Generation{own1, own2}, Claim{Shown: 1, Key: "key-2"}, 2, true, nil},
		{"another key, F28", []Generation{own1, own2}, Claim{Shown: 1, Key: "new"}, 0, false, ErrConflict},
		{"another key, after that one ended unused", []Generation{own1, dead2}, Claim{Shown: 1, Key: "new"}, 3, false, nil},
		{"its own key again", []Generation{own1}, Claim{Shown: 1, Key: "key-1"}, 0, false, ErrInvalid},
		{"superseded", []Generation{gen(1, StepSuperseded, ""), gen(2, StepProven, "")}, Claim{Shown: 1, Key: "key-2"}, 0, false, ErrDenied},
		{"not on record", []Generation{own1}, Claim{Shown: 7, Key: "new"}, 0, false, ErrDenied},
		{"recovered since", []Generation{own1, recovery(own2)}, Claim{Shown: 1, Key: "key-2"}, 0, false, ErrDenied},
		{"reinstated since", []Generation{revoked(own1)}, Claim{Shown: 1, Key: "new"}, 0, false, ErrDenied},
		{"recovery, reinstated since", []Generation{own1, revoked(recovery(own2))}, Claim{Recovery: 2, Key: "key-2"}, 0, false, ErrDenied},
		{"no record", nil, Claim{Shown: 1, Key: "new"}, 0, false, ErrDenied},

		{"of an agent", []Generation{agent1}, Claim{Shown: 1, Key: "new", Agent: "a"}, 0, false, ErrConflict},
		{"of an agent that is gone", []Generation{agent1}, Claim{Shown: 1, Key: "new"}, 2, false, nil},
		{"of an agent that was replaced", []Generation{agent1}, Claim{Shown: 1, Key: "new", Agent: "b"}, 0, false, ErrConflict},
		{"waits for its agent", []Generation{agent1, agent2}, Claim{Shown: 1, Key: "new", Agent: "a"}, 0, false, ErrConflict},
		{"an agent has the same key", []Generation{agent1, agent2}, Claim{Shown: 1, Key: "key-2", Agent: "a"}, 0, false, ErrConflict},
		{"recoverable", []Generation{expired(agent1)}, Claim{Shown: 1, Key: "new", Agent: "a"}, 2, false, nil},
		{"recoverable, and its agent does not come", []Generation{expired(agent1), agent2}, Claim{Shown: 1, Key: "new", Agent: "a"}, 3, false, nil},
		{"recoverable, with the key of the agent", []Generation{expired(agent1), agent2}, Claim{Shown: 1, Key: "key-2", Agent: "a"}, 0, false, ErrInvalid},
		{"recoverable, again", []Generation{expired(agent1), agent2, gen(3, StepIssued, "")}, Claim{Shown: 1, Key: "key-3", Agent: "a"}, 3, true, nil},
		{"its own, beside an agent", []Generation{own1}, Claim{Shown: 1, Key: "new", Agent: "a"}, 2, false, nil},

		{"the first one", nil, Claim{Recovery: 1, Key: "new"}, 1, false, nil},
		{"recovery", []Generation{agent1, agent2}, Claim{Recovery: 3, Key: "new", Agent: "a"}, 3, false, nil},
		{"recovery again", []Generation{own1, recovery(own2)}, Claim{Recovery: 2, Key: "key-2"}, 2, true, nil},
		{"recovery, another key", []Generation{own1, recovery(own2)}, Claim{Recovery: 2, Key: "new"}, 0, false, ErrConflict},
		{"recovery of the past", []Generation{own1, own2}, Claim{Recovery: 1, Key: "new"}, 0, false, ErrConflict},
		{"recovery of the future", []Generation{own1}, Claim{Recovery: 3, Key: "new"}, 0, false, ErrConflict},
		{"recovery with a key of before", []Generation{own1}, Claim{Recovery: 2, Key: "key-1"}, 0, false, ErrInvalid},
		{"recovery that was replaced", []Generation{recovery(gen(1, StepSuperseded, "")), own2}, Claim{Recovery: 1, Key: "key-1"}, 0, false, ErrDenied},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r *Record
			if tt.record != nil {
				r = &Record{Generations: tt.record}
			}
			number, repeat, err := r.Claim(tt.claim, now)
			if number != tt.number || repeat != tt.repeat || !errors.Is(err, tt.kind) {
				t.Errorf("%d, %v, %v; want %d, %v, %v", number, repeat, err, tt.number, tt.repeat, tt.kind)
			}
			if r == nil {
				return
			}
			r.Revoked = &Revocation{At: now, Reason: "keyCompromise"}
			if _, _, err := r.Claim(tt.claim, now); !errors.Is(err, ErrDenied) {
				t.Errorf("revoked: %v", err)
			}
		})
	}
}

func TestErrorKindsAreStored(t *testing.T) {
	for _, kind := range []error{ErrNotFound, ErrConflict, ErrInvalid, ErrDenied} {
		was := fmt.Errorf("sign in: %w: no", kind)
		is := KindOf(was).Error(was.Error())
		if is.Error() != was.Error() || !errors.Is(is, kind) {
			t.Errorf("%v came back as %v", was, is)
		}
	}
	if KindOf(errors.New("x")) != "" || errors.Is(ErrorKind("").Error("x"), ErrDenied) {
		t.Error("an error without a kind got one")
	}
}

func TestAnswersAreBounded(t *testing.T) {
	var b Bundles
	at := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	for i := range 2 * MaxAnswers {
		b.PutAnswer(Answer{Command: fmt.Sprint(i), At: at})
	}
	if len(b.Answers) != MaxAnswers || b.Answer("0") != nil || b.Answer(fmt.Sprint(2*MaxAnswers-1)) == nil {
		t.Errorf("%d answers", len(b.Answers))
	}
	b.PutAnswer(Answer{Command: "0", At: at.Add(AnswerLife)})
	if len(b.Answers) != 1 {
		t.Errorf("%d answers after their life", len(b.Answers))
	}
}

// A generation that came before a recovery stays of no use, also when the record
// has forgotten the recovery.
func TestRecoveryIsNotForgotten(t *testing.T) {
	at := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	gen := func(number int, step Step, reason Reason) Generation {
		return Generation{
			Number: number, Step: step, Reason: reason, At: at, Operation: fmt.Sprint("op-", number), Certificate: Certificate{NotAfter: at.Add(Day)}, Token: Token{ExpiresAt: at.Add(Day)},
		}
	}
	r := &Record{Generations: []Generation{gen(1, StepProven, ReasonLogin), gen(2, StepIssued, ReasonRecovery)}}
	for number := 3; number < 6; number++ {
		r.Generations = append(r.Generations, gen(number, StepIssued, ReasonLogin))
		r.Trim(at)
	}
	if _, _, err := r.Claim(Claim{Shown: 1, Key: "new"}, at); !errors.Is(err, ErrDenied) && r.Find(1) != nil {
		t.Errorf("signs in with the one before: %v", err)
	}
	barred := r.Barred(at)
	if len(barred) != 1 || barred[0].Number != 1 || barred[0].Revoked.Reason != Superseded || barred[0].Revoked.Operation != "op-2" {
		t.Errorf("barred %+v", barred)
	}
	if len(r.Barred(at.Add(2*Day))) != 0 {
		t.Error("barred after its end")
	}
}
