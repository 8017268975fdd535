// Goroutines, channels, timers, child processes, signals and files, with results that do not depend on scheduling.
package main

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	which := ""
	if len(os.Args) > 1 {
		which = os.Args[1]
	}
	switch which {
	case "count":
		count(os.Args[2])
	case "goroutines":
		goroutines()
	case "exec":
		children()
	case "signals":
		signals()
	case "panic":
		var m map[string]int
		defer fmt.Println("deferred")
		m["x"] = 1
	default:
		os.Exit(2)
	}
}

func count(path string) {
	f, err := os.Open(path)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	lines, parts := make(chan string, 64), make(chan map[string]int)
	for i := 0; i < 8; i++ {
		go func() {
			n := map[string]int{}
			for line := range lines {
				for _, w := range strings.Fields(line) {
					n[w]++
				}
			}
			parts <- n
		}()
	}
	scanner := bufio.NewScanner(f)
	for scanner.Scan() {
		lines <- scanner.Text()
	}
	close(lines)
	all := map[string]int{}
	for i := 0; i < 8; i++ {
		for w, n := range <-parts {
			all[w] += n
		}
	}
	var words []string
	for w := range all {
		words = append(words, w)
	}
	sort.Strings(words)
	out, _ := os.Create("counts")
	h := sha256.New()
	for _, w := range words {
		fmt.Fprintln(out, w, all[w])
		fmt.Fprintln(h, w, all[w])
	}
	out.Close()
	fmt.Printf("%d %x\n", len(words), h.Sum(nil))
}

func goroutines() {
	var sum int64
	var wg sync.WaitGroup
	for i := 0; i < 10000; i++ {
		wg.Add(1)
		go func(i int) {
			defer wg.Done()
			if i%100 == 0 {
				time.Sleep(time.Millisecond)
			}
			atomic.AddInt64(&sum, int64(i))
		}(i)
	}
	wg.Wait()
	fmt.Println(sum)
	// Locked threads, and a loop that only preemption by signal can interrupt.
	done := make(chan int)
	for i := 0; i < 20; i++ {
		go func(i int) { runtime.LockOSThread(); time.Sleep(time.Millisecond); done <- i }(i)
	}
	total := 0
	for i := 0; i < 20; i++ {
		total += <-done
	}
	fmt.Println(total)
	var stop int32
	for i := 0; i < runtime.GOMAXPROCS(0); i++ {
		go func() {
			for atomic.LoadInt32(&stop) == 0 {
			}
		}()
	}
	time.Sleep(20 * time.Millisecond)
	runtime.GC()
	atomic.StoreInt32(&stop, 1)
	select {
	case <-done:
	case <-time.After(20 * time.Millisecond):
		fmt.Println("timeout")
	}
	var garbage [][]byte
	for i := 0; i < 2000; i++ {
		garbage = append(garbage, make([]byte, 10000))
		if i%100 == 0 {
			garbage = nil
		}
	}
	runtime.GC()
	r, w, _ := os.Pipe()
	go func() { fmt.Fprint(w, strings.Repeat("x", 200000)); w.Close() }()
	n, b := 0, make([]byte, 3000)
	for {
		k, err := r.Read(b)
		n += k
		if err != nil {
			break
		}
	}
	fmt.Println(n)
}

func children() {
	out, err := exec.Command("/usr/bin/sort", "-u", "words").Output()
	fmt.Printf("%x %v\n", sha256.Sum256(out), err)
	err = exec.Command("/bin/sh", "-c", "exit 7").Run()
	fmt.Println(err)
	cmd := exec.Command("/bin/sleep", "10")
	cmd.Start()
	cmd.Process.Kill()
	fmt.Println(cmd.Wait())
	_, err = exec.Command("/nowhere").Output()
	fmt.Println(err)
	var wg sync.WaitGroup
	for i := 0; i < 20; i++ {
		wg.Add(1)
		go func() { defer wg.Done(); exec.Command("/bin/true").Run() }()
	}
	wg.Wait()
	entries, _ := os.ReadDir(".")
	for _, e := range entries {
		fmt.Println(e.Name(), e.Type())
	}
}

func signals() {
	c := make(chan os.Signal, 10)
	signal.Notify(c, syscall.SIGUSR1, syscall.SIGTERM)
	syscall.Kill(os.Getpid(), syscall.SIGUSR1)
	fmt.Println(<-c)
	syscall.Kill(os.Getpid(), syscall.SIGTERM)
	fmt.Println(<-c)
	func() {
		defer func() { fmt.Println("recovered:", recover()) }()
		var p *int
		*p = 1
	}()
	ticks := 0
	t := time.NewTicker(5 * time.Millisecond)
	for range t.C {
		if ticks++; ticks == 5 {
			break
		}
	}
	fmt.Println(ticks)
	signal.Reset(syscall.SIGTERM)
	syscall.Kill(os.Getpid(), syscall.SIGTERM)
	time.Sleep(5 * time.Second)
}
