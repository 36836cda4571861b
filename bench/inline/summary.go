package main

import "corewire/bench/figure"

// round holds what one round measured, by subject.
type round struct {
	AloneFull  point                  `json:"generator_alone_full"`
	AlonePaced point                  `json:"generator_alone_paced"`
	Subjects   map[string]measurement `json:"subjects"`
}

// cost is the processor time in ns per forwarded frame, less the generator's share for what it made. clock chooses one
// of a point's two clocks.
func cost(p, alone point, clock func(point) float64) float64 {
	own := clock(alone) / float64(max(1, alone.Made))
	return (clock(p) - own*float64(p.Made)) * 1e9 / float64(max(1, p.Forwarded))
}

func machineTime(p point) float64 { return p.Busy }
func taskTime(p point) float64    { return p.Tasks }

// others returns the median number of processors that other programs used between the measurements.
func others(rounds []round) float64 {
	var used []float64
	for _, r := range rounds {
		for _, m := range r.Subjects {
			used = append(used, m.Idle)
		}
	}
	if len(used) == 0 {
		return 0
	}
	return figure.NewSpread(used).Median
}

// busyMachine is the number of processors in use by other programs above which no figure is to be believed.
const busyMachine = 0.1

// summary is one subject over all rounds.
type summary struct {
	Subject   string        `json:"subject"`
	Forwarded figure.Spread `json:"forwarded_fps"`
	LossFree  figure.Spread `json:"loss_free_fps"`
	// Processor time per forwarded frame at the common rate and at full load: the machine's, and the tasks'.
	Cost      figure.Spread `json:"cost_ns"`
	CostFull  figure.Spread `json:"cost_full_ns"`
	Tasks     figure.Spread `json:"task_cost_ns"`
	TasksFull figure.Spread `json:"task_cost_full_ns"`
	Loss      figure.Spread `json:"paced_loss"` // share of frames lost at the common rate
	// The same relative to the reference, round by round: above 1 is more frames, or more time.
	ForwardedRatio figure.Spread `json:"forwarded_ratio"`
	LossFreeRatio  figure.Spread `json:"loss_free_ratio"`
	CostRatio      figure.Spread `json:"cost_ratio"`
	CostFullRatio  figure.Spread `json:"cost_full_ratio"`
	TasksRatio     figure.Spread `json:"task_cost_ratio"`
	TasksFullRatio figure.Spread `json:"task_cost_full_ratio"`
}

// summarise compares the subjects with the reference, which must be one of them.
func summarise(names []string, reference string, rounds []round) []summary {
	var out []summary
	for _, name := range names {
		column := func(f func(m measurement, r *round) float64) (absolute, ratio figure.Spread) {
			var a, q []float64
			for i := range rounds {
				value := f(rounds[i].Subjects[name], &rounds[i])
				a = append(a, value)
				if base := f(rounds[i].Subjects[reference], &rounds[i]); base != 0 {
					q = append(q, value/base)
				}
			}
			if len(q) == 0 {
				q = []float64{0}
			}
			return figure.NewSpread(a), figure.NewSpread(q)
		}
		s := summary{Subject: name}
		s.Forwarded, s.ForwardedRatio = column(func(m measurement, _ *round) float64 { return m.Full.rate() })
		s.LossFree, s.LossFreeRatio = column(func(m measurement, _ *round) float64 { return m.LossFree })
		paced := func(clock func(point) float64) func(measurement, *round) float64 {
			return func(m measurement, r *round) float64 { return cost(m.Paced, r.AlonePaced, clock) }
		}
		full := func(clock func(point) float64) func(measurement, *round) float64 {
			return func(m measurement, r *round) float64 { return cost(m.Full, r.AloneFull, clock) }
		}
		s.Cost, s.CostRatio = column(paced(machineTime))
		s.CostFull, s.CostFullRatio = column(full(machineTime))
		s.Tasks, s.TasksRatio = column(paced(taskTime))
		s.TasksFull, s.TasksFullRatio = column(full(taskTime))
		s.Loss, _ = column(func(m measurement, _ *round) float64 { return m.Paced.loss() })
		out = append(out, s)
	}
	return out
}
