// Command load calls Probe on a CSI socket with one client, then with eight, as Go sidecars do,
// and prints one JSON object: {"p50_ms": …, "p99_ms": …, "per_second": …}.
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"
	"sort"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/emptypb"
)

const (
	method      = "/csi.v1.Identity/Probe"
	warmUpCalls = 300
	calls       = 4000
	clients     = 8
	callTimeout = 10 * time.Second
)

// probe makes n calls over one connection of its own and returns how long each took.
func probe(socket string, n int) []time.Duration {
	connection, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	took := make([]time.Duration, 0, n)
	for range n {
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		begun := time.Now()
		err := connection.Invoke(ctx, method, &emptypb.Empty{}, &emptypb.Empty{})
		cancel()
		if err != nil {
			log.Fatal(err)
		}
		took = append(took, time.Since(begun))
	}
	return took
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func main() {
	socket := os.Args[1]
	probe(socket, warmUpCalls)
	took := probe(socket, calls)
	sort.Slice(took, func(i, j int) bool { return took[i] < took[j] })

	var group sync.WaitGroup
	begun := time.Now()
	for range clients {
		group.Add(1)
		go func() {
			defer group.Done()
			probe(socket, calls/clients*2)
		}()
	}
	group.Wait()
	rate := float64(calls*2) / time.Since(begun).Seconds()

	if err := json.NewEncoder(os.Stdout).Encode(map[string]float64{
		"p50_ms":     milliseconds(took[len(took)/2]),
		"p99_ms":     milliseconds(took[len(took)*99/100]),
		"per_second": rate,
	}); err != nil {
		log.Fatal(err)
	}
}
